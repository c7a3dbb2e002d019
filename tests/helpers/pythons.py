"""Run the tests of the rooms without torch under every Python that is here: `make test-pythons`.

Each Python gets a virtual environment of its own, with the pins of requirements/lock.txt and without torch,
whose builds for most Pythons are gigabytes. Runs under any of them, with the standard library alone.
"""

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repository import ROOT

LOCK = ROOT / "requirements/lock.txt"
VERSIONS = ("3.11", "3.12", "3.13")
LEFT_OUT = ("torch", "transformers")
FOR_TESTS = ("docutils", "hypothesis", "Jinja2", "packaging", "pytest", "setuptools")
STARTS_A_JOB = (
    "tests/unit/cli/test_accept.py::test_a_job_takes_accepted_code_for_what_it_was_planned_for"
)
FILES = "import torchless; print(*torchless.files(), sep='\\n')"
CHECK = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


def interpreter(version: str) -> str | None:
    """Return a Python of a version: that in PATH if it is no shim that fails, or one of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    for program in (f"python{version}", *map(str, installed)):
        try:
            done = subprocess.run([program, "-c", CHECK], capture_output=True, text=True)
        except OSError:
            continue
        if (done.returncode, done.stdout.strip()) == (0, version):
            return program
    return None


def requirements() -> list[str]:
    """Return the requirements of the package without torch, and those of the tests, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [text.split(">")[0].split("=")[0].strip() for text in project["dependencies"]]
    return [name for name in names if name not in LEFT_OUT] + list(FOR_TESTS)


def test(version: str) -> str | None:
    """Run the tests under one version; return the error, or None."""
    program = interpreter(version)
    if program is None:
        print(f"Python {version}: NOT TESTED, this machine has none that runs", flush=True)
        return None
    folder = ROOT / f".venv-no-torch-{version}"
    python = folder / "bin/python"
    ready = folder / "ready"
    if not ready.exists() or ready.stat().st_mtime < LOCK.stat().st_mtime:
        subprocess.run([program, "-m", "venv", folder], check=True)
        install = ["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        subprocess.run(
            [python, "-m", "pip", *install, "-c", LOCK, *requirements()],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        ready.touch()
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}",
        "OMP_NUM_THREADS": "1",
    }
    named = {"capture_output": True, "text": True, "env": environment, "cwd": ROOT}
    files = subprocess.run([python, "-c", FILES], check=True, **named).stdout.split("\n")[:-1]
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=brief"]
    command = [python, "-m", "pytest", *options, f"--deselect={STARTS_A_JOB}", *files]
    done = subprocess.run(command, **named)
    lines = done.stdout.strip().splitlines()
    print(
        f"Python {version}: {len(files)} files, {lines[-1] if lines else done.stderr}", flush=True
    )
    return f"{done.stdout}{done.stderr}" if done.returncode else None


def main() -> int:
    """Test all versions, two at a time; return the exit code."""
    with ThreadPoolExecutor(2) as pool:
        mistakes = [said for said in pool.map(test, VERSIONS) if said is not None]
    print(*mistakes, sep="\n")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
