import pytest

from mace_studio.paths import slug


@pytest.mark.parametrize("title, name", [("Van Gogh, cat", "van-gogh-cat"), ("猫", "猫"), ("../ !", "untitled")])
def test_file_names_read_like_the_title(title, name):
    assert slug(title) == name
