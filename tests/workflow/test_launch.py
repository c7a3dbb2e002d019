"""What refuses to start jobs before any is submitted."""

import subprocess
import sys
from pathlib import Path

import workflow_files
import workflow_runs


def test_jobs_of_an_interpreter_in_a_path_with_a_space_are_refused_in_one_sentence(tmp_path):
    workflow_files.write_experiment(tmp_path)
    environment = tmp_path / "an environment"
    environment.symlink_to(Path(sys.executable).parents[1])
    words = workflow_runs.command(tmp_path, "--executor", "slurm", "--jobs", 1)
    words[0] = str(environment / "bin" / Path(sys.executable).name)
    done = subprocess.run(
        words, capture_output=True, text=True, env=workflow_runs.environment(), cwd=tmp_path
    )
    assert done.returncode == 1
    assert f"cannot be submitted with the interpreter {words[0]}: " in done.stderr
    assert "to a path without spaces" in done.stderr
    assert not list(tmp_path.glob("results/*/*/DONE")), "nothing has begun"


def test_the_slurm_tests_say_that_they_cannot_run_before_anything_is_installed(tmp_path):
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "tests").symlink_to(workflow_runs.ROOT / "tests")
    makefile = workflow_runs.ROOT / "Makefile"
    done = subprocess.run(
        ["make", "-f", makefile, "test-slurm"], capture_output=True, text=True, cwd=folder
    )
    assert "The Slurm tests were NOT RUN: " in done.stdout
    assert "has a space" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["tests"]
