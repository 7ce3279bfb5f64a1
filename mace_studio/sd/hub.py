"""A model on the hub: its files in the cache, and what the hub says against it in a sentence."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, get_token, hf_hub_download, model_info, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from mace_studio import sources
from mace_studio.errors import ModelError
from mace_studio.sd import weight_files

log = logging.getLogger(__name__)

BESIDE = ("README.md", "captions.txt", "LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # either switches the hub off
UNREACHABLE = "Check the network, or give the folder of a model that is on this machine."


def fetched(source: str, part: str = "") -> Path:
    """The folder of a model in the hub's cache; only the files that are read are downloaded, safetensors alone.

    A token in HF_TOKEN, or one that `hf auth login` keeps, is sent along.

    Args:
        source: hub id.
        part: "vae" or "text_encoder" where that alone is wanted, of a model or of a repository that holds nothing else.

    Raises:
        ModelError: it cannot be had, with a sentence that says why and what to do.
    """
    said = sources.shown(source)
    if not sources.is_hub_id(source):
        raise ModelError(
            f"There is no folder “{said}”. Check the spelling, or give a .safetensors file or a hub id such as "
            "owner/name."
        )
    if not re.fullmatch("[!-~]*", get_token() or ""):
        raise ModelError(f"The token {_whence()} holds characters that no token has. Copy it again, or remove it.")
    try:
        return _downloaded(source, part)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(_refusal(said, error)) from error
    except ImportError as error:  # such as a SOCKS proxy without its package
        raise ModelError(f"The hub cannot be asked for {said}: {str(error).splitlines()[0]}") from error
    except ModelError:
        raise
    except Exception as error:  # whatever the transport raises; its classes are no part of the hub's own interface
        log.info("%s could not be fetched", said, exc_info=True)
        kind = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(
            f"There is no folder “{said}”, and it could not be fetched from the hub ({kind}). {_remedy()}"
        ) from error


def _remedy() -> str:
    """What to do where the hub is not reached: no network helps while a variable forbids to ask it."""
    if not constants.HF_HUB_OFFLINE:
        return UNREACHABLE
    names = [name for name in OFFLINE if os.environ.get(name)] or [OFFLINE[0]]
    return (
        f"{' and '.join(names)} forbids to ask the hub, so only what it has sent before can be loaded. Remove that "
        "from the environment and start again, or give the folder of a model that is on this machine."
    )


def _downloaded(source: str, part: str) -> Path:
    try:
        info = model_info(source)
    except (HfHubHTTPError, ImportError):
        raise
    except Exception as error:  # no network: what is in the cache may be enough
        if not isinstance(error, OfflineModeIsEnabled):
            log.info("the hub could not be reached for %s", source, exc_info=True)
        return Path(snapshot_download(source, local_files_only=True))
    if info.id != source:
        log.warning("%s has moved on the hub; it is %s now", source, info.id)
        source = info.id
    names = [file.rfilename for file in info.siblings or ()]
    wanted = _files_of(part, names) if part else _files_of_model(source, names)
    return Path(snapshot_download(source, allow_patterns=wanted))


def _files_of(part: str, names: Sequence[str]) -> list[str]:
    folder = f"{part}/" if f"{part}/config.json" in names else ""
    inside = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    return [f"{folder}{name}" for name in weight_files.needed(name for name in inside if "/" not in name)]


def _files_of_model(source: str, names: Sequence[str]) -> list[str]:
    index = Path(hf_hub_download(source, sources.INDEX))
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"What the hub sent as {sources.INDEX} of {sources.shown(source)} is no JSON: the model is damaged "
            "there, or a proxy answered in its place. Try again, or give a folder."
        ) from error
    wanted = [sources.INDEX, *(name for name in BESIDE if name in names)]
    for part in parts if isinstance(parts, dict) else ():
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        if part not in ("safety_checker", "feature_extractor", "image_encoder"):
            wanted += [f"{part}/{name}" for name in weight_files.needed(inside)]
    return wanted


def _refusal(said: str, error: BaseException) -> str:
    answered = _answered(error)
    if isinstance(answered, EntryNotFoundError):
        return (
            f"{said} has no {sources.INDEX} on the hub, so it is not in the diffusers layout. If it holds a "
            ".safetensors checkpoint, download that and give its path."
        )
    return answer(said, error) or (
        f"There is no folder “{said}”, and it could not be fetched from the hub. Check the spelling. {_remedy()}"
    )


def _answered(error: BaseException | None) -> HfHubHTTPError | None:
    """The hub's answer that is the reason of an error, such as that a file is not in the cache."""
    while error is not None and not (isinstance(error, HfHubHTTPError) and error.response is not None):
        error = error.__cause__
    return error


def answer(said: str, error: BaseException) -> str:
    """What the hub has answered and what to do, as sentences; "" where no answer of its own is the reason of an error.

    Args:
        said: what was asked for, as messages call it.
        error: of whoever asked the hub.
    """
    answered = _answered(error)
    if answered is None or isinstance(answered, EntryNotFoundError):
        return ""
    status = answered.response.status_code
    if isinstance(answered, GatedRepoError):
        return (
            f"{said} is gated: its owners ask for their terms to be accepted. Open {constants.ENDPOINT}/{said}, accept "
            "them, and put a token of that account into the environment variable HF_TOKEN."
        )
    if isinstance(answered, DisabledRepoError):
        return f"{said} is disabled on the hub, so nobody can load it from there. Use another model or a folder."
    refused = "Invalid credentials" in answered.response.headers.get("X-Error-Message", "")
    # The hub answers 401 also for what does not exist, unless a token was sent that is no token.
    if isinstance(answered, RepositoryNotFoundError) or status == 404 or (status == 401 and not refused):
        return (
            f"There is no folder “{said}” and no such model on the hub, or it is private. Check the spelling; for a "
            "private model put a token that may read it into the environment variable HF_TOKEN."
        )
    return _by_status(said, status)


def _whence() -> str:
    return "in HF_TOKEN" if os.environ.get("HF_TOKEN") else "that is kept on this machine"


def _by_status(said: str, status: int) -> str:
    if status == 401:
        return f"The hub does not accept the token {_whence()}, asked for {said}. Make a new one, or remove it."
    if status == 403:
        return f"The hub does not let this token read {said}. Use one that may read it, in HF_TOKEN."
    if status == 410:
        return f"{said} was removed from the hub. Use another model, or a folder that still holds it."
    if status == 429:
        return f"The hub has had too many requests and did not send {said}. Wait some minutes, or set HF_TOKEN."
    if status == 451:
        return f"{said} is withheld on the hub for legal reasons. Use another model."
    if status >= 500:
        return f"The hub has trouble at the moment (status {status}) and did not send {said}. Try again in a while."
    return f"The hub did not send {said} (status {status}). {UNREACHABLE}"
