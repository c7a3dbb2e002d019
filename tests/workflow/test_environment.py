"""Names that stand twice: dependencies and their pins, commands, documents, the version."""

import re
import shlex
import tomllib
from typing import Any, get_args

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

import longrope
from longrope.settings.tasks import Task

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_EXTRAS = ("train", "cluster", "eval", "workflow", "dev")
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
)
MADE_BY_THE_DEMO = {"docs/images/perplexity.png"}
"""Pictures that a run of the demo makes; they may be missing."""


def direct_requirements() -> dict[str, Requirement]:
    """Return what pyproject.toml asks for, without flash-attn, by normal name."""
    texts = list(PROJECT["dependencies"])
    for extra in INSTALLED_EXTRAS:
        texts += PROJECT["optional-dependencies"][extra]
    requirements = map(Requirement, texts)
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def pins(lines: list[str]) -> dict[str, str]:
    """Return name -> version of lines `name==version`; anything else fails."""
    versions = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)", line)
        assert match, f"not a pin: {line!r}"
        versions[canonicalize_name(match[1])] = match[2]
    return versions


def locked(name: str = "lock") -> dict[str, str]:
    lines = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def environment() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())
    return content


def environment_pip() -> list[str]:
    inner = [entry for entry in environment()["dependencies"] if isinstance(entry, dict)]
    lines: list[str] = inner[0]["pip"]
    return lines


def environment_pins() -> dict[str, str]:
    return pins([line for line in environment_pip() if not line.startswith("-")])


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_pin_of_the_conda_environment_equals_the_lock_file():
    lock = locked()
    assert {name: lock.get(name) for name in environment_pins()} == environment_pins()


def test_every_direct_dependency_stands_in_the_conda_environment_and_nothing_else():
    assert environment_pins().keys() == direct_requirements().keys()


def test_every_locked_version_satisfies_the_project_file():
    lock = locked()
    for name, requirement in direct_requirements().items():
        assert requirement.specifier.contains(lock[name]), f"{requirement} against {lock[name]}"


def test_the_tools_of_the_documentation_have_a_lock_file_of_their_own():
    pinned = locked("docs")
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["docs"]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])
        assert canonicalize_name(requirement.name) not in locked()
    assert "torch" not in pinned


def leaves(navigation: Any) -> list[str]:
    """Return the pages of a navigation of mkdocs."""
    if isinstance(navigation, str):
        return [navigation]
    entries = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for entry in entries for page in leaves(entry)]


def test_the_navigation_has_every_page_and_the_page_of_the_api_every_public_name():
    docs = ROOT / "docs"
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    assert sorted(leaves(navigation)) == sorted(pages)
    names = re.findall(r"^::: longrope\.(\w+)$", (docs / "api.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(longrope.__all__)


def test_flash_attention_is_an_extra_and_in_neither_list_of_pins():
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {*INSTALLED_EXTRAS, "docs", "flash"}
    assert [Requirement(text).name for text in extras["flash"]] == ["flash-attn"]
    assert "flash-attn" not in environment_pins()
    assert "flash-attn" not in locked()
    assert "--no-build-isolation '.[flash]'" in (ROOT / "environment.yml").read_text()


def test_the_conda_environment_has_the_python_of_the_project_and_the_project_itself():
    assert PROJECT["requires-python"] == ">=3.11"
    assert "python =3.11" in environment()["dependencies"]
    assert [line for line in environment_pip() if line.startswith("-")] == ["-e ."]


def test_the_environment_of_the_rules_installs_the_lock_file_and_the_package():
    path = ROOT / "workflow/envs/longrope.yaml"
    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    lines = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    arguments = dict(shlex.split(line) for line in lines)
    assert (path.parent / arguments["-r"]).resolve() == ROOT / "requirements/lock.txt"
    assert (path.parent / arguments["-e"]).resolve() == ROOT


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_make_commands_of_a_document_exist(document):
    text = (ROOT / document).read_text()
    commands = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert commands >= {"README.md": {"demo", "test"}, "CONTRIBUTING.md": {"lint"}}[document]
    assert commands - make_targets() == set()


def test_the_configurations_that_the_readme_dry_runs_and_profiles_it_names_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"--configfile (\S+)", text)) - {"config/mine.yaml"}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
    profiles = set(re.findall(r"--profile (\w+)", text))
    assert profiles == {"slurm"}
    assert [name for name in profiles if not (ROOT / name / "config.yaml").is_file()] == []


def test_the_longrope_verbs_that_the_readme_names_exist():
    from longrope.cli.main import main

    verbs = set(re.findall(r"`longrope (\w+)", (ROOT / "README.md").read_text()))
    assert verbs
    for verb in verbs:
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0, verb


def test_continuous_integration_runs_lint_and_tests_and_nothing_else():
    lines = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        "make lint",
        "make test",
        "make test-pythons",
        "make test-slurm",
    ]
    assert {"lint", "test", "test-pythons", "test-slurm"} <= make_targets()


def test_the_citation_has_the_version_of_the_package_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == longrope.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert {"message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Ding", "Zhang", "Zhang", "Xu", "Shang", "Xu", "Yang", "Yang"]
    assert paper["year"] == 2024
    assert "2402.13753" in paper["url"]


def test_the_changelog_has_the_version_of_the_package():
    assert f"## [{longrope.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_links_to_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)}
    local = {link for link in links if link and "://" not in link} - MADE_BY_THE_DEMO
    folder = (ROOT / document).parent
    assert [link for link in sorted(local) if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_of_the_project_that_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    folders = "config|docs|longrope|requirements|resources|rules|tests|workflow"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*[\w/])`", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_task_has_a_module_and_settings():
    modules = {path.stem for path in (ROOT / "longrope/tasks").glob("*.py")} - {"__init__"}
    assert modules == {settings.module for settings in get_args(get_args(Task)[0])}
