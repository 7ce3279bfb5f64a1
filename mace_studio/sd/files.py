"""Safetensors files, written so that a reader sees the whole file or none."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import struct
import tempfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mace_studio.errors import FileError
from mace_studio.progress import Progress, Report, silent
from mace_studio.text_files import remove_abandoned, staging

__all__ = ["cached", "copy", "keep", "make_way", "remove_abandoned", "staging", "stream", "write", "writing"]

log = logging.getLogger(__name__)

# What the format calls each dtype: https://huggingface.co/docs/safetensors
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
BLOCK = 64 * 2**20
DIGEST = "digest"  # of the tensors of a file that can be made again, in its header
COMPUTED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # what anything is computed in
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `path` atomically: beside it first, then renamed.

    Args:
        path: of the file; its folder is made where it is missing.
        tensors: name -> tensor, on any device.
        metadata: of the file's header, or None.

    Raises:
        FileError: the folder cannot be written to, or the disk is full.
    """
    with writing(path), staging(path.parent) as stage:
        stream(stage / path.name, tensors, metadata)
        os.replace(stage / path.name, path)


def keep(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors that can be made again, for `cached`; as `write`, with a digest of them."""
    make_way(path)
    write(path, tensors, {**(metadata or {}), DIGEST: _digest(tensors)})


def make_way(path: Path) -> None:
    """Let a folder that stands where a file of the cache belongs step aside, since no file can replace it.

    Args:
        path: of the file.
    """
    if path.is_dir() and not path.is_symlink():
        with writing(path):
            os.rename(path, Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{path.name}.old-")) / path.name)
        log.warning("%s was a folder, which is kept beside it", path.name)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digits = hashlib.sha256()
    for name in sorted(tensors):
        digits.update(name.encode())
        digits.update(_bytes(tensors[name]))
    return digits.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def cached(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Container[torch.dtype] = COMPUTED
) -> dict[str, Tensor] | None:
    """The tensors of a file that can be made again; None where it is missing, damaged or of something else.

    Args:
        path: a safetensors file.
        shapes: name -> shape of every tensor that it must hold; all of them finite.
        dtypes: that they may have.
    """
    if not path.is_file():  # to open a pipe would wait for its writer
        return None
    try:
        with safe_open(path, framework="pt") as file:  # once: another process may replace it in between
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            digest = (file.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("%s is damaged and is made again: %s", path.name, error)
        return None
    right = {name: tuple(tensor.shape) for name, tensor in tensors.items()} == dict(shapes)
    # The dtype first: of some no one can say whether it is finite.
    if not right or not all(t.dtype in dtypes and bool(t.isfinite().all()) for t in tensors.values()):
        log.warning("%s holds something else than it should and is made again", path.name)
        return None
    if digest not in (None, _digest(tensors)):  # version 0.1 kept none
        log.warning("%s has changed since it was written and is made again", path.name)
        return None
    return tensors


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing `path`, as a FileError with a sentence.

    Args:
        path: what the sentence names.
    """
    try:
        yield
    except OSError as error:
        remedy = (
            "Make room on the disk, or choose another folder." if error.errno in _FULL else "Choose another folder."
        )
        raise FileError(f"{path} could not be written: {error.strerror or error}. {remedy}") from error


def stream(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, progress: Report = silent
) -> None:
    """Write a safetensors file one tensor at a time; equal tensors and metadata give equal bytes.

    The library's own writer puts several metadata entries in an order that changes from run to run.

    Args:
        path: the file.
        tensors: name -> tensor.
        metadata: entries of the header.
        progress: told of the part of the bytes that is written, of 1, after every tensor.
    """
    # The widest first, so that each tensor begins at a multiple of its item size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, dict] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        dtype, shape = _NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(_bytes(tensors[name]))
            progress(Progress("write", step=header[name]["data_offsets"][1] / max(end, 1), total=1))
        file.flush()
        os.fsync(file.fileno())


def copy(source: Path, target: Path, progress: Report = silent) -> None:
    """Copy a file; `progress` is told of the part of the bytes that is written, of 1, after every block.

    Args:
        source: the file to read.
        target: the file to write.
        progress: called with stage "write" after every block: share of the bytes done, of 1.
    """
    size, done = source.stat().st_size, 0
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(BLOCK):
            new.write(block)
            done += len(block)
            progress(Progress("write", step=done / size, total=1))
    if not size:
        progress(Progress("write", step=1, total=1))
