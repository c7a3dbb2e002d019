"""Identity of code: what an edit reaches through imports, and what does not count as one."""

import json
import tomllib
from pathlib import Path

import pytest
from repository import ROOT

from longrope.errors import UserError
from longrope.store import accepted
from longrope.store.code import CodeIndex

MODULES = {
    "__init__": "",
    "main": '"""Doc."""\nimport math\n\nfrom pkg.helper import add\n\n\ndef f(x):\n'
    "    from pkg import late\n    return add(x, late.ONE) * math.pi  # comment\n",
    "helper": "import pkg.deep.base\n\n\ndef add(a, b):\n    return pkg.deep.base.zero() + a + b\n",
    "late": "ONE = 1\n",
    "other": "TWO = 2\n",
    "deep/__init__": "",
    "deep/base": "def zero():\n    return 0\n",
}


@pytest.fixture
def package(tmp_path):
    """A small package whose `main` imports `helper`, which imports `deep.base`; `late` on call."""
    folder = tmp_path / "pkg"
    (folder / "deep").mkdir(parents=True)
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def edited(package: Path, module: str, old: str, new: str) -> tuple[str, str]:
    """Return the identity of pkg.main before and after an edit of one module."""
    before = CodeIndex(package).identity(["pkg.main"])
    path = package / f"{module}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return before, CodeIndex(package).identity(["pkg.main"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# comment", "# another comment"),
        ('"""Doc."""', '"""Other words."""'),
        ('"""Doc."""\n', ""),
        ("def f(x):\n", 'def f(x):\n    """Say what f does."""\n'),
        ("import math\n\n", "import math\n\n\n\n"),
        ("add(x, late.ONE) * math.pi", "(\n        add( x, late.ONE )\n        * math.pi\n    )"),
    ],
    ids=["comment", "docstring", "no docstring", "new docstring", "blank lines", "line breaks"],
)
def test_what_does_not_run_does_not_change_the_identity(package, old, new):
    before, after = edited(package, "main", old, new)
    assert before == after


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("main", "math.pi", "math.tau"),
        ("main", "* math", "/ math"),
        ("main", "f(x)", "f(x, y=None)"),
        ("helper", "a + b", "a - b"),
        ("deep/base", "return 0", "return 0.0"),
        ("late", "1", "True"),
    ],
    ids=["itself", "operator", "parameter", "imported", "imported by that", "inside a function"],
)
def test_an_edit_that_may_run_changes_the_identity(package, module, old, new):
    before, after = edited(package, module, old, new)
    assert before != after


def test_an_edit_in_a_module_nobody_imports_does_not_change_the_identity(package):
    before, after = edited(package, "other", "2", "3")
    assert before == after


def test_an_edit_of_the_names_that_the_package_offers_does_not_change_the_identity(package):
    # `from pkg import late` imports the package too
    before, after = edited(package, "__init__", "", "from pkg.other import TWO\n")
    assert before == after


def test_a_return_of_none_differs_from_no_return(package):
    # both fields are empty in the tree; only the nodes around them tell
    before, after = edited(package, "deep/base", "return 0", "return None")
    again, bare = edited(package, "deep/base", "return None", "pass")
    assert len({before, after, again, bare}) == 3


def test_order_and_repetition_of_names_do_not_change_the_identity(package):
    index = CodeIndex(package)
    names = ["pkg.main", "pkg.other"]
    assert index.identity(names) == index.identity([*reversed(names), "pkg.main"])
    assert index.identity(names) != index.identity(["pkg.main"])


def test_an_import_cycle_ends(package):
    (package / "late.py").write_text("import pkg.main\nONE = 1\n")
    assert CodeIndex(package).identity(["pkg.main"]) == CodeIndex(package).identity(["pkg.late"])


def test_a_module_that_is_not_there_is_refused(package):
    with pytest.raises(ValueError, match=r"pkg\.nothing is not a module of pkg"):
        CodeIndex(package).identity(["pkg.nothing"])


@pytest.mark.parametrize("statement", ["from .helper import add", "from . import helper"])
def test_a_relative_import_is_refused_since_it_would_be_missed(package, statement):
    (package / "other.py").write_text(statement + "\n")
    with pytest.raises(ValueError, match="absolute import"):
        CodeIndex(package).identity(["pkg.other"])


# Accepted code ------------------------------------------------------------------------------------


def test_accepted_code_is_known_as_what_it_stands_for_and_other_code_is_not(package):
    before, after = edited(package, "helper", "a + b", "b + a")
    parts = CodeIndex(package).parts(["pkg.main"])
    other = CodeIndex(package).identity(["pkg.other"])
    accepted.write(package, {after: {"of": "main", "stands_for": before}})
    index = CodeIndex(package)
    assert index.identity(["pkg.main"]) == before != after
    assert index.computed(["pkg.main"]) == after
    assert index.parts(["pkg.main"]) == parts
    assert index.identity(["pkg.other"]) == other


def test_a_later_edit_of_accepted_code_is_not_accepted(package):
    before, after = edited(package, "helper", "a + b", "b + a")
    accepted.write(package, {after: {"of": "main", "stands_for": before}})
    _, later = edited(package, "helper", "b + a", "b - a")
    assert later not in (before, after)


def test_the_file_is_sorted_and_written_whole(package):
    entries = {"b" * 16: {"stands_for": "2" * 16, "of": "search"}}
    entries |= {"a" * 16: {"stands_for": "1" * 16, "of": "fetch"}}
    path = accepted.write(package, entries)
    assert path.read_text() == json.dumps(entries, indent=2, sort_keys=True) + "\n"
    assert accepted.read(package) == entries
    assert [entry.name for entry in package.iterdir() if "accepted" in entry.name] == [path.name]


@pytest.mark.parametrize("text", [None, "", "\n", "{}"])
def test_without_entries_no_code_is_accepted(package, text):
    before = CodeIndex(package).identity(["pkg.main"])
    if text is not None:
        (package / "accepted.json").write_text(text)
    assert CodeIndex(package).identity(["pkg.main"]) == before


ENTRY = {"of": "search", "stands_for": "0" * 16}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "it should map a code identity"),
        (json.dumps({"main": ENTRY}), "entry 'main' should map"),
        (json.dumps({"a" * 16: "0" * 16}), "should map"),
        (json.dumps({"a" * 16: {"stands_for": "0" * 16}}), "should map"),
        (json.dumps({"a" * 16: ENTRY | {"of": 1}}), "should map"),
        (json.dumps({"a" * 16: ENTRY | {"stands_for": "0" * 15}}), "should map"),
        (json.dumps({"a" * 16: ENTRY | {"more": ""}}), "should map"),
    ],
)
def test_a_broken_file_is_refused_by_name(package, text, reason):
    (package / "accepted.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"restore it from git\.$") as caught:
        CodeIndex(package)
    assert f"{package / 'accepted.json'}" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_package_that_cannot_be_written_is_refused(tmp_path):
    package = tmp_path / "package"
    package.write_text("a file has its place")
    with pytest.raises(UserError, match=r"accepted\.json cannot be written .*; use your own"):
        accepted.write(package, {})


def test_the_file_of_this_package_is_well_formed_and_installed_with_it():
    root = ROOT
    assert isinstance(accepted.read(root / "longrope"), dict)
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert accepted.NAME in project["tool"]["setuptools"]["package-data"]["longrope"]
