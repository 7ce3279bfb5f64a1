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
    erase: ModuleType
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
    from mace_studio import erasure  # noqa: PLC0415
    from mace_studio.analysis import attention, compare  # noqa: PLC0415
    from mace_studio.evaluation import evaluate  # noqa: PLC0415
    from mace_studio.export import export  # noqa: PLC0415
    from mace_studio.methods.mace import compose, erase, preview, training_images  # noqa: PLC0415
    from mace_studio.sd import batching, costs, judges, sampling  # noqa: PLC0415
    from mace_studio.sd import model as sd_model  # noqa: PLC0415

    return Engine(
        sd_model,
        costs,
        sampling,
        judges,
        erasure,
        erase,
        compose,
        compare,
        attention,
        preview,
        evaluate,
        export,
        training_images,
        batching,
    )
