"""Text as Windows, macOS and spreadsheets write it; files that are whole or not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mace_studio import caption_files, masks, text_files
from mace_studio.errors import FileError, RecipeError
from mace_studio.paths import unique_slug
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import lookup
from mace_studio.ui import concept_text, form

RECIPE = Recipe(concepts=(Concept("café", "forest"),))


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(RECIPE.to_json(), encoding="utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") and lookup.read_recipe(path) == RECIPE


@pytest.mark.parametrize(
    ("data", "says"),
    [("café".encode("utf-16"), "is UTF-16 text"), ("café".encode("cp1252"), "is not text in UTF-8")],
)
def test_other_encodings_are_a_sentence(tmp_path, data, says):
    path = tmp_path / "recipe.json"
    path.write_bytes(data)
    with pytest.raises(FileError, match=f"recipe.json {says}; save it as UTF-8"):
        lookup.read_recipe(path)
    with pytest.raises(RecipeError, match=says):
        concept_text.from_csv(data)
    with pytest.raises(FileError, match="There is no file"):
        lookup.read_recipe(tmp_path / "missing.json")


@pytest.mark.parametrize("text", ['{"concepts": [{"phrase": "\\ud800", "mapping": "x"}]}', '{"name": "a\\udfffb"}'])
def test_half_a_character_is_a_sentence(text):
    with pytest.raises(RecipeError, match="broken character"):
        Recipe.from_json(text)


@pytest.mark.parametrize("field", ["phrase", "mapping", "name", "about", "preserve", "synonyms"])
def test_half_a_character_from_a_program_is_a_sentence_too(field):
    values = {"phrase": "cat", "mapping": "dog", "synonyms": ("kitty",), "name": "", "about": "", "preserve": ("fox",)}
    values[field] = ("\ud83d",) if isinstance(values[field], tuple) else "a\ud83d"
    concept = Concept(values["phrase"], values["mapping"], synonyms=values["synonyms"])
    asked = Recipe(concepts=(concept,), name=values["name"], about=values["about"], preserve=values["preserve"])
    with pytest.raises(RecipeError, match="broken character") as error:
        asked.check()
    assert field in error.value.field
    str(error.value).encode()


@pytest.mark.parametrize("mark", list("\u00ad\u061c\u180e\u200b\u200e\u200f\u202e\u2063\u2066\u2069\ufeff\ufffb"))
def test_marks_without_width_are_no_part_of_a_phrase(mark):
    twice = Recipe(
        concepts=(Concept("cat", "sky"), Concept(f"c{mark}at{mark}", f"{mark}sea")), preserve=(f"{mark}fox",)
    )
    assert (twice.concepts[1].phrase, twice.concepts[1].mapping, twice.preserve) == ("cat", "sea", ("fox",))
    with pytest.raises(RecipeError, match="Rows 1 and 2"):
        twice.check()
    assert text_files.visible("नमस्\u200dते می\u200cخواهم 🐈\u200d⬛") == "नमस्\u200dते می\u200cخواهم 🐈\u200d⬛"


@pytest.mark.parametrize("sign", ["\x00", "\x07", "\x1b[31m", "\x7f", "\x9b"])
def test_what_steers_a_console_is_in_no_recipe_and_no_prompt(sign):
    cat = Concept("cat", "sky")
    for asked in (Recipe(concepts=(Concept(f"a{sign}", "sky"),)), Recipe(concepts=(cat,), name=f"x{sign}y"),
                  Recipe(concepts=(cat,), preserve=(f"f{sign}ox",)), ImageRequest((f"a {sign}cat",))):  # fmt: skip
        with pytest.raises(RecipeError, match="broken character"):
            asked.check()
    with pytest.raises(RecipeError, match="broken character"):
        Recipe.from_data({"about": sign})
    Recipe(concepts=(cat,), about="two\nlines\tand a tab").check()


LINES = ["phrase{0}mapping{0}kind", "cat{0}dog{0}object", "Van Gogh{0}an artist{0}style"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["", "sep={}", '"sep={}"', "SEP={}", "sep={} "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_spreadsheets(separator, first, mark, end):
    lines = ([first.format(separator)] if first else []) + [line.format(separator) for line in LINES]
    found = concept_text.from_csv((mark + end.join(lines)).encode())
    assert [(c.phrase, c.mapping, c.kind) for c in found] == [
        ("cat", "dog", "object"),
        ("Van Gogh", "an artist", "style"),
    ]


def test_an_unusual_separator_that_is_named_counts():
    assert concept_text.from_csv(b"sep=|\nphrase|mapping\na, b|c; d")[0] == Concept("a, b", "c; d")


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\n\ufeffphrase;mapping\ncat;dog", "SEP = ;\nphrase;mapping\ncat;dog", "phrase|mapping\ncat|dog",
        "\tphrase\tmapping\n1\tcat\tdog", "\n \nphrase,mapping\ncat,dog", '"sep= ;"\r\nphrase;mapping\r\ncat;dog',
    ],
)  # fmt: skip
def test_odd_tables_are_read(text):
    assert concept_text.from_csv(text.encode()) == [Concept("cat", "dog")]
    assert concept_text.from_csv(b"cat,dog,object,a|b|c|d|e")[0].synonyms == ("a", "b", "c", "d", "e")


def test_what_is_no_letter_is_no_concept():
    with pytest.raises(RecipeError, match="is not text in UTF-8"):
        concept_text.from_csv(b"phrase,mapping\ncat,\x00")
    for odd in (" \x85", "\u200d", "\u200e", "\u3000"):
        with pytest.raises(RecipeError, match="Say what “cat” maps to"):
            Recipe(concepts=[Concept("cat", odd)]).check()
        with pytest.raises(RecipeError, match="names no concept"):
            Recipe(concepts=[Concept(odd, "dog")]).check()
        with pytest.raises(RecipeError, match="An empty phrase cannot be kept"):
            Recipe(concepts=[Concept("cat", "dog")], preserve=[odd]).check()


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "one.png"
    with text_files.whole(path) as part:
        assert part.suffix == ".png" and part.parent == path.parent
        part.write_text("first", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(KeyError), text_files.whole(path) as part:
        part.write_text("half", encoding="utf-8")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "first" and os.listdir(path.parent) == ["one.png"]
    assert path.stat().st_mode & 0o444 == 0o444


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("synced"))
    monkeypatch.setattr(os, "replace", lambda part, path: calls.append(path.name))
    text_files.write(tmp_path / "one.md", "text")
    assert calls == ["synced", "one.md"]


def test_no_two_texts_have_one_file_name():
    texts = ["C++", "C#", "c", "🐈", "🐕", "van gogh", "van-gogh", "Van  Gogh!", "a" * 60, "a" * 61, "a_b", "a-b", ""]
    names = [unique_slug(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert unique_slug("Van Gogh") == "van-gogh" and unique_slug("cat") == "cat" == unique_slug("Cat")
    assert json.loads(json.dumps(names)) == names and all(len(name) <= 55 for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "＝HYPERLINK(1)", "＋1", "＠A", "﹣1", "\ufeff=1",
        "\u200b=1", "\x00=1", "\u3000＝1", "\x7f\u202e+1",
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(text):
    assert text_files.cell(text) == f"'{text}"
    assert text_files.cell("Van Gogh = art") == "Van Gogh = art"


def test_what_nobody_sees_is_no_part_of_a_phrase():
    asked = Recipe(
        concepts=[Concept("\ufeffcat\u200b", "a\u2060 dog", synonyms=["\ufefffeline"])], preserve=["\u200bfox"]
    )
    assert asked == Recipe(concepts=[Concept("cat", "a dog", synonyms=["feline"])], preserve=["fox"])
    assert concept_text.pasted("\ufeffcat -> dog\u200b", "object") == [Concept("cat", "dog")]
    assert form.prompts_from("\ufeffa cat\n\u2060\n") == ["a cat"]
    with pytest.raises(RecipeError, match="names no concept"):
        Recipe(concepts=[Concept("\u200b", "dog")]).check()


def test_a_pipe_is_no_file_to_wait_for(tmp_path):
    pipe = tmp_path / "x.png"
    os.mkfifo(pipe)
    recipe = Recipe(concepts=[Concept("cat", "dog")])
    for read in (
        text_files.read,
        caption_files.read_captions,
        lookup.read_recipe,
        lambda path: masks.read(tmp_path, recipe),
    ):
        with pytest.raises((FileError, RecipeError)):
            read(pipe)
    assert text_files.note(pipe) is None


def test_text_in_markdown_is_text():
    assert text_files.markdown("# x\n<script> `a` [b](c) & |") == "\\# x \\<script\\> \\`a\\` \\[b\\](c) \\& \\|"


def test_a_note_that_is_no_file_or_too_large_is_none(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("[1]")
    assert text_files.note(tmp_path / "a.json") == [1]
    monkeypatch.setattr(text_files, "NOTE", 2)
    assert text_files.note(tmp_path / "a.json") is None
    assert text_files.note(tmp_path) is None and text_files.note(tmp_path / "none") is None


def test_what_a_dead_process_left_half_written_is_removed(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from mace_studio import text_files\n"
        "with text_files.whole(Path(sys.argv[1]) / 'report.md') as part: part.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert len(list(tmp_path.iterdir())) == 1 and not (tmp_path / "report.md").exists()
    assert text_files.remove_abandoned(tmp_path) == 1 and not list(tmp_path.iterdir())
