"""Safetensors files, written so that a reader sees the whole file or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from mace_studio.errors import FileError


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `path` atomically: beside it first, then renamed.

    Raises:
        FileError: the folder cannot be written to, or the disk is full.
    """
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata or {}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as part:
            try:
                part.write(data)
                part.flush()
                os.fsync(part.fileno())
            except BaseException:
                Path(part.name).unlink()
                raise
        os.replace(part.name, path)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error.strerror or error}. Choose another folder.") from error
