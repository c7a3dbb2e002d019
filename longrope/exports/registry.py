"""Registry of export formats.

A format is a module of `longrope.exports.formats` whose functions are those of ExportFormat; to add one, add
the module. Modules are imported by name when they are used, so that one may need a package of its own.
"""

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from longrope.errors import UserError
from longrope.exports import formats
from longrope.exports.selection import Export
from longrope.rope.factors import FactorTable


class ExportFormat(Protocol):
    """Functions of a module in `longrope.exports.formats`."""

    def check(self, export: Export) -> None:
        """Refuse by a UserError what the format cannot hold, before anything is written."""
        ...

    def as_run(self, export: Export) -> FactorTable:
        """Return the factors by length that the engine of the format applies."""
        ...

    def traps(self, export: Export) -> list[str]:
        """Return sentences on where engines misbehave with this export."""
        ...

    def write(self, export: Export, folder: Path) -> None:
        """Write all files but the model card to an empty folder."""
        ...


def format_names() -> list[str]:
    """Return the names of all formats."""
    return [module.name for module in pkgutil.iter_modules(formats.__path__)]


def load_format(name: str) -> ExportFormat:
    """Return a format.

    Raises:
        UserError: if there is no such format.
    """
    if name not in format_names():
        raise UserError(f"{name!r} is no format of exports; choose {', '.join(format_names())}.")
    return cast(ExportFormat, import_module(f"{formats.__name__}.{name}"))
