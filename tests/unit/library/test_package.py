"""Tests of `import longrope`: light, and every public name where editors and mypy look for it."""

import ast
import subprocess
import sys
import tomllib

import pytest
from repository import ROOT

import longrope

PURE = "FactorTable, Geometry, METHODS, RopeFactors, UserError, closed_form"


def type_checked_names() -> dict[str, str]:
    """Return the names that the package imports for type checkers, and their modules."""
    tree = ast.parse((ROOT / "longrope/__init__.py").read_bytes())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_public_names_in_the_modules_that_they_come_from():
    expected = {name: f"longrope.{module}" for name, module in longrope._MODULES.items()}
    assert type_checked_names() == expected
    assert set(longrope.__all__) == expected.keys() <= set(dir(longrope))


def test_an_installed_package_tells_type_checkers_that_it_has_types():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "py.typed" in tools["setuptools"]["package-data"]["longrope"]
    assert (ROOT / "longrope/py.typed").is_file()


def test_factors_and_closed_forms_are_imported_without_torch():
    code = f"import sys; from longrope import {PURE}; print(sorted({{'torch'}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_package_alone_imports_none_of_its_modules():
    code = "import sys, longrope; print([name for name in sys.modules if 'longrope.' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_closed_form_is_a_computation_on_values():
    geometry = longrope.Geometry(num_pairs=2, rope_theta=10_000.0, original_length=256)
    assert longrope.closed_form("linear", geometry, target_length=1024).factors == (4.0, 4.0)


def test_a_name_that_is_not_offered_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'longrope' has no attribute 'serch_factors'"):
        longrope.serch_factors  # noqa: B018
