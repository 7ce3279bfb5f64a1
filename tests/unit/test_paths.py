import sys

import pytest

from mace_studio.paths import slug, unique_slug


@pytest.mark.parametrize("title, name", [("Van Gogh, cat", "van-gogh-cat"), ("猫", "猫"), ("../ !", "untitled")])
def test_file_names_read_like_the_title(title, name):
    assert slug(title) == name


@pytest.mark.parametrize("encoding, name", [("ascii", "cat"), ("latin-1", "é-cat"), ("utf-8", "猫-é-cat")])
def test_file_names_have_letters_alone_of_which_the_file_system_takes_names(monkeypatch, encoding, name):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    assert slug("猫 é cat") == name
    assert unique_slug("猫").encode(encoding) != unique_slug("犬").encode(encoding)
