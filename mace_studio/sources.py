"""Which model a text that was typed or pasted names: a folder, a .safetensors file or a hub id. Without torch."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from mace_studio.errors import ModelError

QUOTATIONS = 4  # in one another
LONGEST = 255  # characters of a source that is not on this machine
QUOTED = 80  # characters of a source that a message repeats
INDEX = "model_index.json"
CHECKPOINT = ".safetensors"
WEIGHTS = (CHECKPOINT, ".ckpt", ".bin", ".pt", ".pth", ".gguf", ".onnx")
BRANCHED = ("tree", "blob", "resolve", "commit", "raw", "edit", "commits", "blame")  # pages of one state of a model
OPENING, CLOSING = "\"'`“”„‘’‚«»‹›<「『", "\"'`”“‘’»«›‹>」』"  # languages disagree on which is which
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def cleaned(source: str) -> str:
    """The folder, file or hub id that a text names.

    Quotes and blanks around it are taken off, “~” and file:// addresses become paths, the address of a page on the hub
    becomes its id. A folder of the hub's cache becomes the snapshot in it, and a folder that holds nothing but one
    checkpoint becomes that checkpoint.

    Raises:
        ModelError: it names no model, with a sentence that says what to give instead.
    """
    text = _unquoted(source)
    if not text:
        raise ModelError("Name a model: a folder, a .safetensors file or a hub id such as owner/name.")
    _check_letters(text)
    text = _address(text)
    _check_letters(text)  # those that an address holds as %00
    if len(text) > LONGEST and not os.path.exists(text):
        raise ModelError(
            f"“{shown(text)}” has {len(text)} characters, and there is no such folder; a hub id has {LONGEST} at most. "
            "Give a folder, a .safetensors file or a hub id such as owner/name."
        )
    path = Path(text)
    if os.path.isdir(text):  # that of Path fails for a name of too many bytes
        return str(_model_in(path))
    if path.name == INDEX and os.path.isfile(text):
        return str(path.parent)
    return text.rstrip("/") if is_hub_id(text.rstrip("/")) and not os.path.exists(text) else text


def _check_letters(text: str) -> None:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ModelError(f"“{shown(text)}” holds characters that no path or hub id has; type it instead of pasting it.")


def shown(text: str) -> str:
    """A text as a message repeats it: what cannot be shown is escaped, and a long one is cut."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return plain if len(plain) <= QUOTED else f"{plain[: QUOTED - 1]}…"


def is_hub_id(source: str) -> bool:
    """Whether a source that is not on this machine can be the id of a repository: `name` or `owner/name`."""
    return len(source) <= 96 and HUB_ID.fullmatch(source) is not None and "--" not in source and ".." not in source


def _unquoted(text: str) -> str:
    text = _stripped(text)
    for _ in range(QUOTATIONS):
        if len(text) < 2 or text[0] not in OPENING:
            break
        inner = _stripped(text.rstrip(",;"))  # as in a list
        if len(inner) < 2 or inner[-1] not in CLOSING:
            break
        text = _stripped(inner[1:-1])
    return text


def _stripped(text: str) -> str:
    """Without what str.strip() leaves, too: marks without width, which come along with copied text."""
    marks = "".join({letter for letter in text if unicodedata.category(letter) == "Cf"})
    return text.strip().strip(f"{marks} \t\r\n")


def _address(text: str) -> str:
    """A path or hub id from an address, or from a path that begins in the home folder."""
    if text.lower().startswith("file:"):
        parts = _split(text)
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost"):
            raise ModelError(
                f"“{shown(text)}” names a file of another computer, {shown(parts.netloc)}; the address of one of this "
                f"computer has three slashes: file:///{shown(parts.netloc + path)}."
            )
        # file:///C:/models on Windows: the drive comes after the slash of the address.
        return path[1:] if re.match(r"/[A-Za-z]:", path) else path
    if text.startswith("~"):
        return os.path.expanduser(text)
    if re.match(r"(hf|https?)://", text, re.IGNORECASE) or text.lower().startswith(tuple(f"{h}/" for h in HUB_HOSTS)):
        return _hub_page(text)
    return text


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:  # such as half of an IPv6 address
        raise ModelError(f"“{shown(address)}” is no address; give a path or a hub id such as owner/name.") from error


def _hub_page(text: str) -> str:
    scheme, _, rest = text.rpartition("://")
    parts = _split(f"https://{rest}")
    names = [unquote(name) for name in parts.path.split("/") if name]
    if scheme.lower() == "hf":
        names = [parts.netloc, *names]
    elif parts.hostname not in HUB_HOSTS:
        raise ModelError(
            f"“{shown(text)}” is the address of a page; download the .safetensors file and give its path, or give a "
            "hub id such as owner/name."
        )
    if names[:2] == ["api", "models"]:
        names = names[2:]
    if names[:1] == ["models"]:
        names = names[1:]
    names[1:2] = [name.removesuffix(".git") for name in names[1:2]]
    hub_id = "/".join(names[:2])
    _check_letters(hub_id)
    if len(names) < 2 or names[0] in ("datasets", "spaces", "collections", "papers", "docs") or not is_hub_id(hub_id):
        raise ModelError(f"“{shown(text)}” is not the page of a model; its address ends in owner/name.")
    file = names[-1] if len(names) > 3 and names[2] in ("blob", "resolve") else ""
    if file.endswith(WEIGHTS):
        raise ModelError(
            f"“{shown(text)}” is one file of a hub repository; download a {CHECKPOINT} file and give its path, or give "
            f"the repository: {shown(hub_id)}."
        )
    if len(names) > 3 and names[2] in BRANCHED and names[3] != "main":
        raise ModelError(
            f"“{shown(text)}” is the page of {shown(names[3])}, and a repository is loaded from its branch main. "
            f"Download the model and give its folder, or give the repository: {shown(hub_id)}."
        )
    return hub_id


def _model_in(folder: Path) -> Path:
    """The folder itself, the snapshot in a folder of the hub's cache, or its only checkpoint.

    Raises:
        ModelError: it holds several checkpoints.
    """
    if (folder / INDEX).is_file():
        return folder
    snapshots = folder if folder.name == "snapshots" else folder / "snapshots"
    if snapshots.is_dir() and (snapshot := _snapshot(snapshots)) is not None:
        return _model_in(snapshot)
    files = sorted(p for p in folder.glob(f"*{CHECKPOINT}") if p.is_file() and not p.name.startswith("."))
    if (folder / "config.json").is_file() or not files:
        return folder  # one part of a model, or no model: what reads it says so
    if len(files) > 1:
        names = ", ".join(shown(file.name) for file in files[:3])
        raise ModelError(f"{shown(str(folder))} holds {len(files)} checkpoints; give the path of one: {names}.")
    return files[0]


def _snapshot(snapshots: Path) -> Path | None:
    """The snapshot that `main` names, or else the newest."""
    try:
        main = snapshots / (snapshots.parent / "refs" / "main").read_text(encoding="utf-8").strip()
        if main.is_dir() and main.parent == snapshots:
            return main
    except (OSError, ValueError):
        pass
    found = sorted((p for p in snapshots.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None
