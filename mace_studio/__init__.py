"""MACE Studio: mass concept erasure in text-to-image diffusion models.

Example:
    >>> from mace_studio import Concept, Recipe, erase, load
    >>> model = load()
    >>> erasure = erase(model, Recipe(concepts=[Concept("cat", "forest")], preserve=["dog"]))

`docs/library.md` says more. Importing this package is fast: torch is imported by the first name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mace_studio.analysis.attention import inspect
    from mace_studio.analysis.compare import compare
    from mace_studio.erasure import Erasure
    from mace_studio.evaluation.evaluate import evaluate
    from mace_studio.exports.export import export
    from mace_studio.exports.formats import ExportRequest
    from mace_studio.methods import erase
    from mace_studio.methods.mace import MaceSettings
    from mace_studio.recipe import Concept, ImageRequest, Recipe
    from mace_studio.sd.model import Model, load

__version__ = "0.2.0"

__all__ = [
    "Concept",
    "Erasure",
    "ExportRequest",
    "ImageRequest",
    "MaceSettings",
    "Model",
    "Recipe",
    "compare",
    "erase",
    "evaluate",
    "export",
    "inspect",
    "load",
]

# Name -> the module that has it.
_HOMES = {
    "Concept": "recipe",
    "Erasure": "erasure",
    "ExportRequest": "exports.formats",
    "ImageRequest": "recipe",
    "MaceSettings": "methods.mace",
    "Model": "sd.model",
    "Recipe": "recipe",
    "compare": "analysis.compare",
    "erase": "methods",
    "evaluate": "evaluation.evaluate",
    "export": "exports.export",
    "inspect": "analysis.attention",
    "load": "sd.model",
}


def __getattr__(name: str) -> Any:
    """Import a name of the library when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
