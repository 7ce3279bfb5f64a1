"""No message of a shared studio tells a folder, whatever the folder is called."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mace_studio.errors import names_only

SHARED = Path("/srv/studio")
# Letters of many scripts, blanks, and marks that quote or end a sentence; a folder's name does not begin or end with a
# blank, and holds a letter that no sentence below has.
LETTERS = st.text(st.sampled_from("aZ9é模ß🙂 '\"`“”‘’«»().,;:!?-_~@#$%&+=[]{}"), min_size=1, max_size=12)
FOLDERS = LETTERS.map(lambda text: f"Q{text}Q").filter(lambda name: not any(mark in name for mark in ("://", ":/")))
MILD = st.text(st.sampled_from("aZ9é模ß🙂 '\"`‘«»-_~@#$%&+=[]{}"), min_size=1, max_size=12).map(lambda t: f"Q{t}Q")
SENTENCES = st.sampled_from(
    [
        "There is no file {}.",
        "{} could not be written: No space left on device. Choose another folder.",
        "[Errno 13] Permission denied: '{}'",
        "The UNet of {} lacks 2 weights (saved with a LoRA attached?).",
        "Not “{}”, but owner/name or https://hub.example/a/b.",
        "it broke:{}",
    ]
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("Qserver")


@given(sentence=SENTENCES, parts=st.lists(FOLDERS, min_size=1, max_size=3))
def test_no_folder_that_the_server_has_is_told(root, sentence, parts):
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    assert names_only(sentence.format(folder / "x.png"), SHARED) == sentence.format("x.png")


@given(
    sentence=SENTENCES,
    parts=st.lists(MILD, min_size=1, max_size=4),
    begins=st.sampled_from(["/", "~/", "C:\\", "d:/", "\\\\nas\\", "file:///", "/srv/studio/", "~ada/"]),
)
def test_no_folder_is_told_that_is_only_named(sentence, parts, begins):
    between = "\\" if begins.endswith("\\") else "/"
    told = names_only(sentence.format(begins + between.join([*parts, "x.png"])), SHARED)
    assert told == sentence.format("x.png") if len(parts) > 1 or begins == "/srv/studio/" else "x.png" in told


@given(st.text(st.sampled_from("/\\ .,'“”:~ab"), max_size=200))
def test_any_message_is_taken(message):
    assert set(names_only(message, SHARED)) <= set(message)


def test_a_long_message_takes_no_long_time():
    for piece in ("/", "/a", " /a/b", " /a b/c d, ", "“/a b/", "\\", "~/", " ' ", "/.,;"):
        begun = time.monotonic()
        names_only(piece * 200_000, SHARED)
        assert time.monotonic() - begun < 2, piece
