"""Trainings of tiny models, one after the other, in processes that torchrun starts.

Run as a script with a JSON list of cases, or of nodes of a plan; the first process writes what each case left
behind.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import node_settings
import torch
from characters import character_tokenizer
from killing import end_at, fail, kill, terminate, terminate_launcher
from tiny_models import build
from torch.utils.data import Dataset

from longrope.cli import run
from longrope.cli.ranks import end_process
from longrope.data.token_store import TokenStore
from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.factors import RopeFactors
from longrope.settings.training import ParallelSettings
from longrope.training import trainer as training
from longrope.training.recording import Recorder
from longrope.training.rows import Chunks, Mix, Mixed
from longrope.training.validation import Watch

SETTINGS: dict[str, Any] = {
    "num_steps": 3,
    "batch_size": 4,
    "learning_rate": 0.01,
    "schedule": "linear",
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "adam_betas": [0.9, 0.95],
    "dtype": "float32",
    "checkpoint_steps": 2,
    "seed": 0,
}


FACTORS = RopeFactors(
    factors=(1.0,) * 4 + (2.0,) * 4,
    attention_scale=1.1,
    original_length=32,
    target_length=64,
    method="longrope",
)
"""what mixed and scaled cases are under"""


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Random rows, each a function of its place alone."""

    def __init__(self, length: int, num_rows: int) -> None:
        self._length = length
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(2, 97, (self._length,), generator=generator)
        return {"input_ids": tokens, "labels": tokens}


class Windows(Rows):
    """Random windows, each a function of its place alone: one piece, and three, in turn."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        lengths = [self._length, 0, 0] if index % 2 else [12, 1, self._length - 13]
        positions = torch.cat([torch.arange(length) for length in lengths])
        return super().__getitem__(index) | {"positions": positions}


def case(work: Path, **changes: Any) -> dict[str, Any]:
    """Return a case: a name is a setting of the stage, of its parallelism, or one of those below."""
    settings = {"work": str(work), "length": 64, "micro_batch_size": 1, "architecture": "llama"}
    settings |= {
        "kill": None,
        "fail": None,
        "terminate": None,
        "terminate launcher": None,
        "refused": False,
        "text": None,
        "mixed": False,
        "scaled": False,
        "watched": None,
        "curves": None,
    }
    result: dict[str, Any] = settings | {"settings": dict(SETTINGS), "parallel": {}}
    for name, value in changes.items():
        places = [result["settings"], result if name in settings else result["parallel"]]
        places[0 if name in SETTINGS else 1][name] = value
    return result


def rows_of(case: dict[str, Any]) -> Dataset[dict[str, torch.Tensor]]:
    """Return the rows of a case: chunks of a token store, or random ones, half of them windows if mixed."""
    length, settings = case["length"], case["settings"]
    num_rows = settings["num_steps"] * settings["batch_size"]
    if case["text"] is not None:
        return chunks(Path(case["text"]), length, num_rows)
    rows = Rows(length, num_rows)
    return Mixed(rows, Windows(32, num_rows * length // 32), 0.5, 0) if case["mixed"] else rows


def chunks(store: Path, length: int, num_rows: int) -> Chunks:
    """Return the rows that the stage would make of a token store, without passkeys."""
    mix = Mix(
        text_length=length,
        num_rows=num_rows,
        passkey_fraction=0.0,
        begin=(0,),
        end_token=1,
        seed=0,
    )
    return Chunks(TokenStore(store), character_tokenizer(first=2, count=90), mix)


def watch_of(case: dict[str, Any]) -> Watch | None:
    """Return the watch of a case, every second step, if it names a token store."""
    if case["watched"] is None:
        return None
    return Watch(
        TokenStore(Path(case["watched"])),
        FACTORS,
        num_documents=2,
        every_steps=2,
        chunk_length=50,
        dtype="float32",
    )


def recorder_of(case: dict[str, Any]) -> Recorder | None:
    """Return the recorder of a case's curves, if it names a folder for them."""
    if case["curves"] is None:
        return None
    work, tokens = Path(case["work"]), case["length"] * case["settings"]["batch_size"]
    work.mkdir(exist_ok=True)
    return Recorder(work, tokens_per_step=tokens, curves=Path(case["curves"]))


def compute(case: dict[str, Any]) -> dict[str, Any] | None:
    """Train one case; return its log and the digest of its weights, None in all but the first process."""
    settings, length = case["settings"], case["length"]
    model = build(case["architecture"], max_position_embeddings=length)
    if case["mixed"] or case["scaled"]:
        install(model, geometry(model, 32)).use(FACTORS)
    watch, recorder = watch_of(case), recorder_of(case)
    trained = training.train(
        model,
        rows_of(case),
        **node_settings.training(settings),
        work=Path(case["work"]),
        micro_batch_size=case["micro_batch_size"],
        parallel=ParallelSettings.model_validate(case["parallel"]),
        callbacks=[callback for callback in (recorder, watch) if callback],
    )
    if os.environ.get("RANK", "0") != "0":
        return None
    weights = model.state_dict() if trained.weights is None else trained.weights
    content = b"".join(weights[name].numpy().tobytes() for name in sorted(weights))
    seen = watch.entries if watch else []
    return {"log": trained.log, "weights": hashlib.sha256(content).hexdigest(), "watched": seen}


def refusal(case: dict[str, Any]) -> dict[str, Any] | None:
    """Train one case that cannot be; every process has to refuse it, or the next case waits for ever."""
    try:
        compute(case)
    except UserError as error:
        return {"refusal": str(error)} if os.environ.get("RANK", "0") == "0" else None
    raise AssertionError("the training was not refused")


def compute_node(case: dict[str, Any]) -> None:
    """Compute a node of a plan, as `longrope run` does."""
    parser = argparse.ArgumentParser()
    run.add(parser.add_subparsers())
    places = ["--plan", case["plan"], "--store", case["store"]]
    options = parser.parse_args(["run", case["key"], *places])
    run.compute(case["key"], json.loads(options.plan.read_text())["nodes"], options)


def forget_sequence_parallelism() -> None:
    """Undo DeepSpeed's setup of this process: groups, and wrapped attention."""
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.utils import groups
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    parallel_state_sp._release_sequence_parallel_groups()
    # or a next training that shares no rows asks for the groups that are gone
    groups.mpu = None
    if "sdpa" in ALL_ATTENTION_FUNCTIONS._local_mapping:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


PATIENT = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "240"}
"""torchrun kills processes that are still saving after so many seconds, as in the rule; by itself after 30"""


def torchrun(
    *arguments: object, processes: int = 2, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Start processes of a script, which have nothing compiled so far.

    Each has the threads of this one: the sums of a product are divided among them.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, "--standalone", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | PATIENT | {"OMP_NUM_THREADS": str(torch.get_num_threads())} | environment,
        # for what hangs: on a busy machine fifteen trainings took longer than two minutes
        timeout=600,
    )


def main(cases: list[dict[str, Any]], results: Path) -> int:
    """Compute cases and write their results after each; return the exit code."""
    done = []
    for described in cases:
        for name, end in (("kill", kill), ("fail", fail)):
            if described.get(name) is not None:
                end_at(*described[name], end)
        # in the middle of a step
        for name, end in (("terminate", terminate), ("terminate launcher", terminate_launcher)):
            if described.get(name) is not None:
                end_at(*described[name], end, event="on_substep_end")
        done.append(_done(described))
        forget_sequence_parallelism()
        if done[-1] is not None:
            results.write_text(json.dumps(done))
    return 0


def _done(described: dict[str, Any]) -> dict[str, Any] | None:
    if "key" in described:
        compute_node(described)
        return None
    return refusal(described) if described["refused"] else compute(described)


if __name__ == "__main__":
    end_process(lambda: main(json.loads(sys.argv[1]), Path(sys.argv[2])))
