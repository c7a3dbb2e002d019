"""Where a run starts: another clone, deployment of software, strange paths, a home nobody can write to."""

import errno
import os
import subprocess

import pytest
import workflow_files
import workflow_runs
from workflow_runs import ROOT, clone, run

from longrope.errors import UserError
from longrope.search.workers import processes

STRANGE = "a [b] {c} 100%"
"""A folder's name with all that patterns, formats and shells read as something else."""


def refusal(done):
    """Return the error of a run that ended before anything was planned."""
    assert done.returncode == 1, done.stdout[-2000:]
    said: str = done.stdout + done.stderr
    assert "Traceback" not in said
    return said


@pytest.fixture
def folder(tmp_path):
    """A working folder with the smallest experiment."""
    folder = tmp_path / "work"
    folder.mkdir()
    workflow_files.write_experiment(folder)
    return folder


# Which code runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["conda", "apptainer", "env-modules"])
def test_deployment_of_software_is_refused_since_no_rule_would_use_it(folder, method):
    said = refusal(run(folder, "small.yaml", "--sdm", method))
    assert f"software deployment ({method}) is not offered: jobs run the interpreter" in said
    assert not (folder / "results").exists()


def test_a_profile_that_asks_for_conda_is_refused_alike(folder, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.yaml").write_text("software-deployment-method: conda\n")
    said = refusal(run(folder, "small.yaml", "-n", "--profile", tmp_path / "site"))
    assert "software deployment (conda) is not offered" in said


def test_the_snakefile_of_the_workflow_folder_is_refused_with_the_one_to_run(folder):
    said = refusal(run(folder, "small.yaml", "-n", "-s", ROOT / "workflow" / "Snakefile"))
    assert f"the Snakefile to run is {ROOT / 'Snakefile'}: leave out --snakefile (-s)" in said


def test_a_key_that_a_file_gives_twice_is_refused_though_snakemake_takes_the_last(folder):
    with (folder / "small.yaml").open("a") as stream:
        stream.write("experiment: other\n")
    said = refusal(run(folder, "small.yaml", "-n"))
    assert "small.yaml gives the key experiment twice, in lines 2 and" in said


def test_another_clone_as_working_directory_is_refused_with_both_named(tmp_path):
    here, other = tmp_path / "here", tmp_path / "other"
    for each in (here, other):
        each.mkdir()
        clone(each)
    workflow_files.write_experiment(other)
    # as with `snakemake -d`: started in one clone and working in the other
    done = subprocess.run(
        workflow_runs.command(other, "-n", code=here),
        cwd=here,
        capture_output=True,
        text=True,
        env=workflow_runs.environment(here),
    )
    said = refusal(done)
    assert f"the working directory, {other}, holds another copy of longrope" in said
    assert f"the one that plans this run, {here / 'longrope'}" in said
    assert run(other, "small.yaml", "-n", code=other).returncode == 0


def test_another_clone_in_pythonpath_is_refused_since_rules_and_library_would_part(
    folder, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    clone(other)
    words = workflow_runs.command(folder, "-n", code=other)
    paths = os.pathsep.join(map(str, [ROOT, other]))
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert f"the folder of the Snakefile, {other}, holds another copy" in refusal(done)


def test_jobs_run_the_library_beside_the_snakefile_and_not_the_installed_one(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    clone(other)
    stage = other / "longrope" / "stages" / "tokenize.py"
    stage.write_text(stage.read_text() + "\n\nEDITED = True\n")
    done = subprocess.run(
        workflow_runs.command(folder, "--until", "tokenize_corpus", code=other),
        cwd=folder,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert {name.split("/")[0] for name in workflow_runs.computed(folder)} == {"tokenize"}


# Paths --------------------------------------------------------------------------------------------


def test_a_clone_with_a_brace_in_its_path_is_refused_in_one_sentence(folder, tmp_path):
    strange = tmp_path / STRANGE
    strange.mkdir()
    clone(strange)
    said = refusal(run(folder, "small.yaml", "-n", code=strange))
    assert f"the path of the clone, {strange}, has a brace" in said


# Homes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "cache", "chosen"),
    [
        ("/proc/nobody", None, f"{ROOT}/.snakemake/cache"),
        ("/proc/nobody", "{}", "{}"),
        ("{}", None, ""),
    ],
)
def test_make_gives_snakemake_a_cache_where_the_home_cannot_be_written(
    tmp_path, home, cache, chosen
):
    home, cache, chosen = (text and text.format(tmp_path) for text in (home, cache, chosen))
    # the tests themselves may run under make, which would say so
    unset = {"XDG_CACHE_HOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    others = {name: os.environ[name] for name in os.environ if name not in unset}
    done = subprocess.run(
        ["make", "--eval", 'show: ; @echo "$${XDG_CACHE_HOME:-}"', "show"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=others | {"HOME": home} | ({"XDG_CACHE_HOME": cache} if cache else {}),
    )
    assert done.stdout == f"{chosen}\n", done.stderr


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EROFS, errno.ENOSPC])
def test_workers_without_shared_memory_end_in_a_sentence_that_names_it(
    monkeypatch, tmp_path, number
):
    from fake_workers import fake_scorer, unit

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    worker = processes.Process(fake_scorer(tmp_path), None, None)
    with pytest.raises(UserError, match="Linux needs /dev/shm to be there"):
        worker.start(unit(0))
