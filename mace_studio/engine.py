"""The modules that need torch and diffusers, imported when they are asked for: that takes seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Engine:
    """The use cases, and what they are set up with."""

    loading: ModuleType
    cost: ModuleType
    generate: ModuleType
    classify: ModuleType
    erasure: ModuleType
    composition: ModuleType
    comparison: ModuleType
    inspection: ModuleType
    preview: ModuleType
    evaluation: ModuleType
    exporting: ModuleType
    pictures: ModuleType
    room: ModuleType


def engine() -> Engine:
    """All of them, for the worker's thread."""
    # Waiting threads would spin, and beside other work on the machine every small operation would wait for its time
    # slice: a run took over ten times as long. It is read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mace_studio import (  # noqa: PLC0415
        comparison,
        composition,
        erasure,
        evaluation,
        exporting,
        inspection,
        pictures,
        preview,
    )
    from mace_studio.sd import classify, cost, generate, loading, room  # noqa: PLC0415

    return Engine(
        loading,
        cost,
        generate,
        classify,
        erasure,
        composition,
        comparison,
        inspection,
        preview,
        evaluation,
        exporting,
        pictures,
        room,
    )
