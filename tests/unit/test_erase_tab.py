"""The Erase tab without a browser."""

from mace_studio.runtime.studio import Studio
from mace_studio.ui import page
from mace_studio.ui.form_fields import FIELDS


def test_opening_the_page_updates_no_form_unless_the_browser_comes_back_to_a_job(tmp_path):
    """With a hundred controls among the outputs of an event the page answers no key for seconds."""
    config = page.build(Studio(output=tmp_path)).config
    opening = [one for one in config["dependencies"] if any(event == "load" for _, event in one["targets"])]
    outputs = {len(one["outputs"]) for one in opening}
    assert opening and max(outputs) < len(FIELDS)
    fills = [one for one in config["dependencies"] if one["api_name"].startswith("on_returned")]
    assert [len(one["outputs"]) for one in fills] == [len(FIELDS)]
    (home, event) = fills[0]["targets"][0]
    assert event == "change" and any(one["outputs"] == [home] for one in opening)
