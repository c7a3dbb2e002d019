"""Identity of code: a hash over a module and what it imports inside the package.

Comments, docstrings, formatting and positions do not count. The import closure is static: an import
inside a function counts, a module named in a string does not, so callers name those themselves.
Relative imports are refused, since they would be missed. Code that was accepted as equivalent to older code
has the older identity.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

from longrope.store import accepted

PACKAGE = Path(__file__).parents[1]
UNCOUNTED = {
    "": "the version, and names for people to import",
    "settings": "the values that it parses are in the digest themselves",
    "runtime": "where inputs are and who computes",
    "architectures": "a wrong name or size in it ends in a refusal, and changes no number",
    "data.model_config": "refuses models, and changes none",
    "data.model_weights": "refuses models, and changes none",
    "search.workers.cluster": "who scores",
    "search.workers.processes": "who scores",
    "search.progress": "shows a search",
    "training.recording": "shows a training",
    "training.validation": "looks at a training, and changes no weight",
}
"""room or module of the package (`""`: its `__init__`) -> why its code is in no digest"""


class CodeIndex:
    """Hashes of the modules of one package; each file is parsed once per object."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self._root = package
        self._name = package.name
        self._hashes: dict[str, str] = {}
        self._imports: dict[str, frozenset[str]] = {}
        self._accepted = accepted.read(package)

    def identity(self, modules: Iterable[str]) -> str:
        """Return the identity of the code of `modules`: its hash, or the older one it stands for."""
        return self.known_as(self.computed(modules))

    def computed(self, modules: Iterable[str]) -> str:
        """Return the hash of `modules` (dotted names) and of all they import inside the package."""
        lines = [f"{module} {part}" for module, part in self.parts(modules).items()]
        return _hash_of_lines(lines)

    def identity_of_scripts(self, scripts: Iterable[Path], modules: Iterable[str] = ()) -> str:
        """Return the hash of scripts outside the package, of all they import inside it, and of `modules`."""
        trees = {path.name: ast.parse(path.read_bytes()) for path in scripts}
        imported = {name for tree in trees.values() for name in self._imported(tree)} | {*modules}
        lines = [f"{name} {_tree_hash(tree)}" for name, tree in sorted(trees.items())]
        return _hash_of_lines([*lines, self.computed(imported)])

    def known_as(self, computed: str) -> str:
        """Return the older identity that a computed one was accepted to stand for, else itself."""
        entry = self._accepted.get(computed)
        return entry["stands_for"] if entry else computed

    def parts(self, modules: Iterable[str]) -> dict[str, str]:
        """Return the hash of each module that counts for `modules`, by name, sorted.

        Raises:
            ValueError: if a module does not exist or has a relative import.
        """
        closure: set[str] = set()
        waiting = list(modules)
        while waiting:
            module = waiting.pop()
            if module not in closure:
                closure.add(module)
                self._read(module)
                waiting.extend(name for name in self._imports[module] if _counts(name))
        return {module: self._hashes[module] for module in sorted(closure)}

    def _path(self, module: str) -> Path | None:
        parts = module.split(".")[1:]
        base = self._root.joinpath(*parts)
        if base.with_suffix(".py").is_file() and parts:
            return base.with_suffix(".py")
        return base / "__init__.py" if (base / "__init__.py").is_file() else None

    def _read(self, module: str) -> None:
        if module in self._hashes:
            return
        path = self._path(module)
        if path is None:
            raise ValueError(f"{module} is not a module of {self._name}")
        tree = ast.parse(path.read_bytes())
        self._imports[module] = frozenset(self._imported(tree))
        self._hashes[module] = _tree_hash(tree)

    def _imported(self, tree: ast.Module) -> Iterable[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                if node.level or node.module is None:
                    raise ValueError(f"line {node.lineno}: use an absolute import")
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                if name.split(".")[0] == self._name and self._path(name) is not None:
                    yield name


def _counts(module: str) -> bool:
    inside = module.partition(".")[2]
    return not any(f"{inside}.".startswith(f"{name}.") for name in UNCOUNTED)


def _hash_of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _tree_hash(tree: ast.Module) -> str:
    return hashlib.sha256(_tree_text(_without_docstrings(tree)).encode()).hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [entry for entry in body if not _is_bare_text(entry)]  # type: ignore[attr-defined]
    return tree


def _is_bare_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _tree_text(node: object) -> str:
    """Return a text of the tree that does not depend on Python's own `ast.dump` format."""
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_tree_text(value)}"
            for name, value in sorted(ast.iter_fields(node))
            if name not in ("ctx", "type_comment", "kind") and value not in (None, [])
        )
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_tree_text(item) for item in node)}]"
    return repr(node)
