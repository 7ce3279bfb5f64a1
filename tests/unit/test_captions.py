"""The general captions: the files are what the grammar writes, and they read well."""

import re

import pytest

from mace_studio import captions

WRITTEN = {"general": captions.general, "miniature": captions.miniature}
FILES = {"general": captions.GENERAL, "miniature": captions.MINIATURE}


def lines(name: str) -> list[str]:
    return (captions.ASSETS / FILES[name]).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("name", "least"), [("general", 3000), ("miniature", 1400)])
def test_the_files_are_what_the_grammar_writes_and_all_lines_differ(name, least):
    assert lines(name) == WRITTEN[name](), "run python -m mace_studio.captions"
    assert len({line.lower() for line in lines(name)}) == len(lines(name)) >= least


def test_writing_makes_the_same_files_again(tmp_path):
    captions.write(tmp_path)
    for path in FILES.values():
        assert (tmp_path / path).read_bytes() == (captions.ASSETS / path).read_bytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_every_list_of_words_is_used_and_every_gap_is_filled(name):
    forms, words = getattr(captions, f"{name.upper()}_FORMS"), getattr(captions, f"{name.upper()}_WORDS")
    gaps = {gap for group in forms for form in group for gap in re.findall(r"\{(\w+)\}", form)}
    assert gaps == set(words)
    assert all(len(set(choices)) == len(choices) and all(choices) for choices in words.values())
    assert not any("{" in line or "}" in line or "  " in line or line != line.strip() for line in lines(name))


def test_general_captions_are_english():
    for line in lines("general"):
        assert line[0].isupper(), line
        assert not re.search(r"\b[aA] [aeiou]|\b[aA]n [^aeiou]|\b(\w+) \1\b", line), line
        assert 3 <= len(line.split()) <= 18, line


def test_general_captions_are_of_many_things():
    words = {word for line in lines("general") for word in re.findall(r"[a-zé-]{3,}", line.lower())}
    assert len(words) > 400
    # No form is most of the file: the commonest three first words begin less than a sixth of all captions.
    starts = [" ".join(line.split()[:3]) for line in lines("general")]
    assert max(starts.count(start) for start in set(starts)) < len(starts) / 6


def test_nobody_is_named():
    inside = [line for line in lines("general") if re.search(r"[A-Z]", line[1:])]
    assert inside == []
    assert not any(re.search(r"[A-Z]", line) for line in lines("miniature"))
    assert not any(" style" in line or " by " in line for line in lines("miniature"))
