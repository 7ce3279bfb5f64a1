"""The Models tab without a browser."""

import pytest

from mace_studio.runtime.studio import Studio
from mace_studio.ui import page


@pytest.fixture
def parts(tmp_path):
    """The elem_ids of a studio's page, and the names of its handlers."""

    def built(fixed):
        config = page.build(Studio(output=tmp_path, fixed=fixed)).config
        shown = {c["props"].get("elem_id") for c in config["components"] if c["props"].get("visible", True)}
        return shown, {dependency["api_name"] for dependency in config["dependencies"]}

    return built


def test_many_users_find_nothing_that_changes_what_is_there_for_the_others(parts):
    shown, handlers = parts(fixed=False)
    assert {"base-card", "rename", "delete", "compose", "export"} <= shown
    assert {"on_load", "on_rename", "on_delete"} <= handlers
    shown, handlers = parts(fixed=True)
    assert {"compose", "export", "open-erasure"} <= shown and not {"base-card", "rename", "delete"} & shown
    assert not {"on_load", "on_rename", "on_delete"} & handlers
