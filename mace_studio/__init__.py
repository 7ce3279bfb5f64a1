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
    from mace_studio.cluster.erase import erase as erase_on_cluster
    from mace_studio.cluster.evaluate import evaluate as evaluate_on_cluster
    from mace_studio.cluster.workers import Cluster
    from mace_studio.erasure import Erasure
    from mace_studio.erasure import load as load_erasure
    from mace_studio.evaluation.evaluate import evaluate
    from mace_studio.exports.export import export
    from mace_studio.exports.formats import ExportRequest
    from mace_studio.methods import erase
    from mace_studio.methods.mace import MaceSettings
    from mace_studio.recipe import Concept, ImageRequest, Recipe
    from mace_studio.sd.model import Model, load

__version__ = "0.2.0"

__all__ = [
    "Cluster",
    "Concept",
    "Erasure",
    "ExportRequest",
    "ImageRequest",
    "MaceSettings",
    "Model",
    "Recipe",
    "compare",
    "erase",
    "erase_on_cluster",
    "evaluate",
    "evaluate_on_cluster",
    "export",
    "inspect",
    "load",
    "load_erasure",
]

# Name -> the module that has it, and its name there.
_HOMES = {
    "Cluster": ("cluster.workers", "Cluster"),
    "Concept": ("recipe", "Concept"),
    "Erasure": ("erasure", "Erasure"),
    "ExportRequest": ("exports.formats", "ExportRequest"),
    "ImageRequest": ("recipe", "ImageRequest"),
    "MaceSettings": ("methods.mace", "MaceSettings"),
    "Model": ("sd.model", "Model"),
    "Recipe": ("recipe", "Recipe"),
    "compare": ("analysis.compare", "compare"),
    "erase": ("methods", "erase"),
    "erase_on_cluster": ("cluster.erase", "erase"),
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "evaluate_on_cluster": ("cluster.evaluate", "evaluate"),
    "export": ("exports.export", "export"),
    "inspect": ("analysis.attention", "inspect"),
    "load": ("sd.model", "load"),
    "load_erasure": ("erasure", "load"),
}


def __getattr__(name: str) -> Any:
    """Import a name of the library when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
