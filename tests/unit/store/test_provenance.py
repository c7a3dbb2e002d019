"""Tests of the recorded commit: that of this project's repository, or none, with the reason."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from longrope.store import provenance

PYPROJECT = '[project]\nname = "longrope"\n'


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder as a user without a configuration; return what it prints."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def committed(root: Path, pyproject: str | None = PYPROJECT, location: str = "longrope") -> Path:
    """Make a repository with a committed package at `location`; return the package."""
    package = root / location
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    if pyproject is not None:
        (root / "pyproject.toml").write_text(pyproject)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return package


def test_the_commit_is_that_of_the_own_repository(tmp_path):
    package = committed(tmp_path / "a clone")
    head = git(tmp_path / "a clone", "rev-parse", "HEAD")
    assert provenance.commit_of(package) == {"commit": head, "dirty": False}
    (package / "__init__.py").write_text("edited = True\n")
    assert provenance.commit_of(package) == {"commit": head, "dirty": True}


def test_this_package_is_told_as_git_tells_it():
    root = Path(provenance.__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("these sources are no git repository")
    assert provenance.facts()["git"]["commit"] == git(root, "rev-parse", "HEAD")


def test_a_worktree_and_a_submodule_have_commits_of_their_own(tmp_path):
    committed(tmp_path / "origin")
    head = git(tmp_path / "origin", "rev-parse", "HEAD")
    git(tmp_path / "origin", "worktree", "add", "--quiet", str(tmp_path / "tree"))
    committed(tmp_path / "outer", '[project]\nname = "other"\n', "code")
    allowed = ("-c", "protocol.file.allow=always")
    git(
        tmp_path / "outer", *allowed, "submodule", "--quiet", "add", str(tmp_path / "origin"), "lib"
    )
    for package in (tmp_path / "tree" / "longrope", tmp_path / "outer" / "lib" / "longrope"):
        assert provenance.commit_of(package)["commit"] == head


@pytest.mark.parametrize(
    ("pyproject", "location"),
    [
        (None, ".venv/lib/python3.11/site-packages/longrope"),
        (PYPROJECT, "vendored/longrope"),
        ('[project]\nname = "other"\n', "longrope"),
        (None, "longrope"),
        ("project = 3", "longrope"),
        ("not toml", "longrope"),
    ],
)
def test_the_commit_of_another_project_around_the_package_is_never_told(
    tmp_path, pyproject, location
):
    facts = provenance.commit_of(committed(tmp_path / "dotfiles", pyproject, location))
    assert facts["commit"] == "unknown"
    assert "another project's repository" in facts["reason"]
    assert str(tmp_path / "dotfiles") in facts["reason"]


def test_a_package_that_its_repository_ignores_has_no_commit(tmp_path):
    package = committed(tmp_path)
    git(tmp_path, "rm", "-r", "--quiet", "--cached", "longrope")
    git(tmp_path, "commit", "--quiet", "--message", "without the package")
    facts = provenance.commit_of(package)
    assert facts["commit"] == "unknown"
    assert "__init__.py" in facts["reason"]


def test_variables_of_a_hook_do_not_lead_to_another_repository(tmp_path, monkeypatch):
    package = committed(tmp_path / "ours")
    committed(tmp_path / "other", '[project]\nname = "other"\n')
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    head = (tmp_path / "ours/.git" / "refs").rglob("*")
    assert provenance.commit_of(package)["commit"] in [
        path.read_text().strip() for path in head if path.is_file()
    ]


def test_a_repository_without_a_commit_says_so(tmp_path):
    package = tmp_path / "longrope"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    assert provenance.commit_of(package)["commit"] == "unknown"


def test_without_a_repository_or_without_git_the_reason_is_told(tmp_path, monkeypatch):
    package = tmp_path / "longrope"
    package.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "not a git repository" in provenance.commit_of(package)["reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = provenance.commit_of(package)
    assert (facts["commit"], facts["dirty"]) == ("unknown", False)
    assert facts["reason"] == "git could not be started (No such file or directory)"


def test_a_repository_of_another_user_is_unknown_with_the_refusal_of_git(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give a repository to another user")
    package = committed(tmp_path / "theirs")
    for path in [tmp_path / "theirs", *(tmp_path / "theirs").rglob("*")]:
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.delenv("SUDO_UID", raising=False)
    facts = provenance.commit_of(package)
    assert facts["commit"] == "unknown"
    assert "dubious ownership" in facts["reason"]
    shutil.rmtree(tmp_path / "theirs")
