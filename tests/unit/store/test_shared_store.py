"""Tests of a store that several users share: file modes, and an experiment computed by two of them."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import workflow_files
import workflow_runs
import yaml
from refusals import OTHER, as_user, open_folder, require_root
from safetensors.torch import save_file

from longrope.store import commit, modes

USERS = (OTHER, OTHER + 1)
GROUP = OTHER + 2


def mode(path: Path) -> str:
    """Return the permission bits and special bits in octal."""
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def private_files(work: Path) -> None:
    """Fill a folder with files and folders that only their owner can read, as some libraries do."""
    save_file({"a": torch.zeros(2)}, work / "model.safetensors")
    (work / "model.safetensors").chmod(0o600)
    (work / "inner").mkdir(mode=0o700)
    (work / "inner" / "a.txt").write_text("a")
    (work / "inner" / "a.txt").chmod(0o400)
    (work / "program").write_text("a")
    (work / "program").chmod(0o755)


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077], ids=oct)
def umask(request):
    """The umask during a test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_committed_node_has_the_modes_of_new_files(tmp_path, umask):
    store = tmp_path / "store"
    final = commit.run(store, "finetune/a", {}, private_files, dict)
    file, folder = f"{0o666 & ~umask:o}", f"{0o777 & ~umask:o}"
    paths = list(store.rglob("*"))
    assert {mode(path) for path in paths if path.is_file()} == {file}
    assert {mode(path) for path in [store, *paths] if path.is_dir()} == {folder}
    assert not list(final.glob("_*"))


def test_directories_of_a_group_stay_of_that_group(tmp_path, umask):
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o2770)
    commit.run(store, "finetune/a", {}, private_files, dict)
    folders = [path for path in store.rglob("*") if path.is_dir()]
    assert {mode(path) for path in folders} == {f"{0o2000 | 0o777 & ~umask:o}"}


def test_links_are_not_followed(tmp_path):
    (tmp_path / "outside").write_text("a")
    (tmp_path / "outside").chmod(0o600)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(tmp_path / "outside")
    modes.share(tmp_path / "work")
    assert mode(tmp_path / "outside") == "600"


def test_a_default_access_list_counts_and_not_the_umask(tmp_path, umask):
    if shutil.which("setfacl") is None:
        pytest.skip("there is no setfacl here")
    command = ["setfacl", "-d", "-m", "u::rwX,g::rwX,o::-", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this file system has no access lists")
    final = commit.run(tmp_path, "finetune/a", {}, private_files, dict)
    assert mode(final / "model.safetensors") == "660"


# Two users ----------------------------------------------------------------------------------------

COMMIT = """
import time
from pathlib import Path
from longrope.store import commit
def fill(work):
    for name in ("a", "b"):
        (work / name).unlink(missing_ok=True)
        (work / name).write_text(name)
        (work / name).chmod(0o600)
    if sys.argv[6] == "fail":
        (work / "_checkpoints").mkdir()
        (work / "_checkpoints" / "1").write_text("state")
        sys.exit("stopped")
    if (work / "_checkpoints").is_dir():
        print((work / "_checkpoints" / "1").read_text())
commit.run(Path("results"), sys.argv[5], {}, fill, dict)
if len(sys.argv) > 7:
    commit.require_sound(Path("results"), sys.argv[7])
"""


@pytest.fixture
def shared(monkeypatch):
    """A working directory of a group, as `chmod g+ws` makes it."""
    require_root()
    with open_folder() as folder:
        work = folder / "work"
        work.mkdir()
        os.chown(work, USERS[0], GROUP)
        work.chmod(0o2775)
        monkeypatch.chdir(work)
        yield work


def test_what_one_user_commits_another_reads_repairs_and_goes_on_with(shared):
    first, second = USERS
    same = {"gid": GROUP, "umask": 0o002}
    assert as_user(first, COMMIT, "search/a", "", **same).returncode == 0
    stopped = as_user(first, COMMIT, "search/b", "fail", **same)
    assert "stopped" in stopped.stderr
    # The other resumes the stopped node, after checking what the first has finished.
    done = as_user(second, COMMIT, "search/b", "", "search/a", **same)
    assert (done.returncode, done.stdout) == (0, "state\n"), done.stdout + done.stderr
    owners = {path.name: path.stat().st_uid for path in Path("results/search").iterdir()}
    assert owners["a"] == first
    # Only verified: nothing is written into what the first has made.
    done = as_user(second, COMMIT, "search/a", "", **same)
    assert "verified, not computed again" in done.stdout, done.stderr
    (Path("results/search/a/a")).write_text("damaged")
    assert as_user(second, COMMIT, "search/a", "", **same).returncode == 0
    assert commit.problem(Path("results/search/a")) is None
    assert len(list(Path("results/.trash").iterdir())) == 1


def test_who_may_not_write_still_verifies_what_another_committed(shared):
    first, second = USERS
    assert as_user(first, COMMIT, "search/a", "", gid=GROUP, umask=0o022).returncode == 0
    # The claim needs its own directory.
    for folder in (Path("results/.work"), Path("results/.work/search")):
        folder.chmod(0o2775)
    done = as_user(second, COMMIT, "search/a", "", gid=GROUP, umask=0o022)
    assert done.returncode == 0, done.stderr
    assert "verified, not computed again" in done.stdout


def interpreter(uid: int, home: Path) -> list[str]:
    """Return the Python that another user can start with our packages; skips the test if there is none.

    Our own may lie in a home that is closed to others, while the system's of the same version does not.
    """
    home.mkdir()
    os.chown(home, uid, GROUP)
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin") or ""):
        path = f"PYTHONPATH={workflow_runs.ROOT}{os.pathsep}{packages}"
        command = ["setpriv", f"--reuid={uid}", f"--regid={GROUP}", "--clear-groups"]
        command += ["env", path, f"HOME={home}", f"XDG_CACHE_HOME={home}", f"USER=u{uid}"]
        command += [f"LOGNAME=u{uid}", python]
        test = [*command, "-c", "import snakemake, torch, longrope"]
        if python and subprocess.run(test, capture_output=True, cwd="/").returncode == 0:
            return command
    pytest.skip("other users can start no Python with our packages")


def test_two_users_compute_the_halves_of_one_experiment_in_one_store(shared):
    first, second = (interpreter(uid, shared.parent / f"home-{uid}") for uid in USERS)
    workflow_files.write_experiment(shared)
    settings = workflow_files.settings()
    settings["extension"] = settings["extension"][:1]
    del settings["readjust"], settings["evaluate"]["passkey"]
    settings["evaluate"]["perplexity"] |= {"lengths": {"words": [128]}, "methods": ["none"]}
    Path("small.yaml").write_text(yaml.safe_dump(settings))
    for path in shared.rglob("*"):
        os.chown(path, USERS[0], GROUP)
        path.chmod(0o2775 if path.is_dir() else 0o664)

    def snakemake(user: list[str], *targets: str) -> subprocess.CompletedProcess[str]:
        where = ["-s", str(workflow_runs.ROOT / "Snakefile"), "--configfile", "small.yaml"]
        return subprocess.run(
            [*user, "-m", "snakemake", *where, "--cores", "1", *targets],
            capture_output=True,
            text=True,
            umask=0o002,
            env=workflow_runs.environment(),
        )

    names = workflow_runs.names(shared)
    (tuned,) = (key for key in names.values() if key.startswith("finetune/"))
    done = snakemake(first, f"results/{tuned}/DONE")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    done = snakemake(second)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    owners = {key: (Path("results") / key).stat().st_uid for key in names.values()}
    assert owners[tuned] == USERS[0]
    assert set(owners.values()) == set(USERS)
    closed = [
        str(path)
        for path in Path("results").rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o060 != 0o060
    ]
    assert closed == []
    # And back: the first finds all of it finished.
    done = snakemake(first, "-n")
    assert "Nothing to be done" in done.stdout + done.stderr, done.stdout + done.stderr
