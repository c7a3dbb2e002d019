"""LongRoPE: extend the context window of a pretrained RoPE language model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrope.errors import UserError as UserError
    from longrope.exports.export import export_model as export_model
    from longrope.library import generate as generate
    from longrope.library import install as install
    from longrope.library import perplexity as perplexity
    from longrope.library import search_factors as search_factors
    from longrope.models.loading import geometry as geometry
    from longrope.models.loading import load_model as load_model
    from longrope.models.loading import load_tokenizer as load_tokenizer
    from longrope.models.scoring import token_nlls as token_nlls
    from longrope.rope.factors import FactorTable as FactorTable
    from longrope.rope.factors import RopeFactors as RopeFactors
    from longrope.rope.methods import METHODS as METHODS
    from longrope.rope.methods import Geometry as Geometry
    from longrope.rope.methods import closed_form as closed_form

__version__ = "0.1.0"

_MODULES = {
    "METHODS": "rope.methods",
    "FactorTable": "rope.factors",
    "Geometry": "rope.methods",
    "RopeFactors": "rope.factors",
    "UserError": "errors",
    "closed_form": "rope.methods",
    "export_model": "exports.export",
    "generate": "library",
    "geometry": "models.loading",
    "install": "library",
    "load_model": "models.loading",
    "load_tokenizer": "models.loading",
    "perplexity": "library",
    "search_factors": "library",
    "token_nlls": "models.scoring",
}
"""public name -> its module, which is imported when the name is first used: some import torch"""

__all__ = [*_MODULES]

if not TYPE_CHECKING:  # otherwise mypy would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Imported here: at module level it would become an attribute of the package.
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
