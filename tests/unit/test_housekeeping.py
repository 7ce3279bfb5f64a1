"""What many users leave on a disk is bounded in bytes and by age."""

import os

import pytest

from mace_studio.errors import FileError
from mace_studio.runtime import housekeeping
from mace_studio.runtime.studio import Studio

DAY = 86400.0
NOW = 100 * DAY


def lay(path, size, age):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - age, NOW - age))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_old_folders_of_users_go_and_shared_erasures_stay(tmp_path):
    lay(tmp_path / "cat.safetensors", 10, 90 * DAY)
    lay(tmp_path / "users" / "old" / "a.safetensors", 10, 8 * DAY)
    lay(tmp_path / "users" / "old" / "pairs" / "b.png", 10, 9 * DAY)
    lay(tmp_path / "users" / "back" / "a.safetensors", 10, 30 * DAY)
    lay(tmp_path / "users" / "back" / "pairs" / "b.png", 10, 2 * DAY)
    housekeeping.tidy(tmp_path, NOW)
    assert names(tmp_path / "users") == ["back"] and (tmp_path / "cat.safetensors").exists()
    assert names(tmp_path / "users" / "back") == ["a.safetensors", "pairs"]


def test_the_oldest_go_where_there_are_too_many_bytes_but_not_what_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "USERS", 250)
    monkeypatch.setattr(housekeeping, "CACHE", 150)
    for name, age in (("first", 3 * DAY), ("second", 2 * DAY), ("third", DAY), ("now", 60.0)):
        lay(tmp_path / "users" / name / "a", 100, age)
        lay(tmp_path / "cache" / "images" / name, 100, age)
    housekeeping.tidy(tmp_path, NOW)
    assert names(tmp_path / "users") == ["now", "third"]
    assert names(tmp_path / "cache" / "images") == ["now"]
    monkeypatch.setattr(housekeeping, "USERS", 0)
    housekeeping.tidy(tmp_path, NOW)
    assert names(tmp_path / "users") == ["now"]


def test_a_link_of_a_user_is_removed_and_not_what_it_points_to(tmp_path):
    lay(tmp_path / "precious" / "a", 10, 90 * DAY)
    (tmp_path / "output" / "users").mkdir(parents=True)
    (tmp_path / "output" / "users" / "link").symlink_to(tmp_path / "precious")
    housekeeping.tidy(tmp_path / "output", NOW * 10)
    assert (tmp_path / "precious" / "a").exists()


def test_an_empty_studio_has_nothing_to_tidy(tmp_path):
    housekeeping.tidy(tmp_path / "none", NOW)


def test_a_full_folder_says_so_before_anything_is_queued(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "USER", 50)
    shared = Studio(output=tmp_path, fixed=True, user=lambda: "ada")
    shared.check_room()
    lay(tmp_path / "users" / "ada" / "a.safetensors", 60, 0.0)
    with pytest.raises(FileError, match="Download what you want to keep"):
        shared.check_room()
    Studio(output=tmp_path / "users" / "ada").check_room()  # one's own disk is one's own
