"""How a process ends that exchanged tensors with others: with its own exit code, and nothing lost."""

import subprocess
import sys

import pytest
import torchless

pytestmark = pytest.mark.skipif(not torchless.HAS_TORCH, reason="needs torch")

SCRIPT = """
import atexit, ctypes, sys, time

# Called last of all, and keeps the interpreter's lock until finalization begins: a thread that drops a tensor
# waits for the lock by then, as it does by chance on a busy machine.
atexit.register(ctypes.PyDLL(None).sleep, 3)

import torch
from torch import distributed

from longrope.cli.ranks import end_process

# As DeepSpeed does: a group that is destroyed keeps its threads while anything refers to it.
kept = []


def main():
    rank = int(sys.argv[2])
    distributed.init_process_group(
        "gloo", init_method=f"file://{{sys.argv[1]}}", rank=rank, world_size=2
    )
    kept.append(distributed.group.WORLD)
    if rank == 1:
        time.sleep(1)
    try:
        work = distributed.all_reduce(torch.ones(3), async_op=rank == 0)
    except RuntimeError:
        assert rank == 1, "the first did not wait for the sum"
        return 0
    del work
    if rank == 0:
        atexit.register(print, "registered", flush=False)
        print("printed", flush=False)
        {end}
    return 0


end_process(main)
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("return 0", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("raise ValueError('a mistake')", 1, "ValueError: a mistake"),
    ],
)
def test_a_process_ends_with_its_own_exit_code_while_a_thread_of_gloo_drops_a_tensor(
    tmp_path, end, code, said
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(end=end))
    command = [sys.executable, str(script), str(tmp_path / "meeting")]
    with subprocess.Popen([*command, "1"]) as other:
        done = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=120)
        other.kill()
    assert done.returncode == code, done.stderr[-3000:]
    assert done.stdout.split() == ["printed", "registered"]
    assert said in done.stderr and "terminate called" not in done.stderr


def test_a_process_that_has_no_group_ends_as_any_other():
    script = "from longrope.cli.ranks import end_process; end_process(lambda: 3)"
    command = [sys.executable, "-c", f"import atexit; atexit.register(print, 'last'); {script}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (3, "last\n")
