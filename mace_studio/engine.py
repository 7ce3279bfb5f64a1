"""The modules that need torch and diffusers, imported when the first job needs them and not before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Engine:
    """The use cases, and what they need beside them, as modules."""

    loading: ModuleType
    erasure: ModuleType
    comparison: ModuleType
    inspection: ModuleType
    preview: ModuleType
    exporting: ModuleType
    figures: ModuleType


def start() -> Engine:
    """Import them, which takes seconds the first time: call it on the worker's thread."""
    # Waiting threads would spin, and beside other work on the machine every small operation would wait for its time
    # slice: a run took over ten times as long. It is read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mace_studio import comparison, erasure, exporting, figures, inspection, preview  # noqa: PLC0415
    from mace_studio.sd import loading  # noqa: PLC0415

    return Engine(loading, erasure, comparison, inspection, preview, exporting, figures)
