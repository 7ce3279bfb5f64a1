"""The Erase tab without a browser."""

import pytest

from mace_studio.runtime.studio import Studio
from mace_studio.ui import api, page
from mace_studio.ui.form_fields import FIELDS


@pytest.fixture
def events(tmp_path):
    """The events of a studio's page, as the browser gets them."""
    return page.build(Studio(output=tmp_path)).config["dependencies"]


def test_opening_the_page_updates_no_form_unless_the_browser_comes_back_to_a_job(events):
    """What comes later would take the place of what is typed meanwhile."""
    opening = [one for one in events if any(event == "load" for _, event in one["targets"])]
    assert opening and max(len(one["outputs"]) for one in opening) < len(FIELDS)
    (offers,) = (one for one in events if one["api_name"] == "on_returned")
    (fills,) = (one for one in events if one["trigger_after"] == offers["id"])
    assert not fills["backend_fn"] and len(fills["outputs"]) == len(FIELDS) - 1  # but what no user types into
    ((home, event),) = offers["targets"]
    # The jobs that the browser remembers are found on opening, and only where there is one it is asked about.
    (asks,) = (one for one in events if one["outputs"] == [home])
    ((job, event_before),) = asks["targets"]
    assert event == event_before == "change" and any(job in one["outputs"] for one in opening)


def test_no_event_lets_the_browser_look_for_overlays(events):
    own = [one for one in events if one["backend_fn"] and one["api_name"] not in api.NAMES]
    assert len(own) > 50
    assert [one["api_name"] for one in own if one["show_progress_on"] != []] == []
