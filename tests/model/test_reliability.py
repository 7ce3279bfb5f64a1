"""The scripts of tests/reliability with small counts, so that they run whenever the tests do."""

import warnings

import pytest

from mace_studio.runtime.studio import Studio
from mace_studio.ui import page
from tests.reliability import cycles, greedy_page, hostile_erasures, hostile_models, mutations


@pytest.fixture(autouse=True)
def other_warnings():
    """Pillow warns of damaged images, and transformers of damaged configurations, before they are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("script", "count", "bad"),
    [
        (mutations, 900, "foreign exceptions"),
        (hostile_erasures, 25, "tracebacks"),
        (hostile_models, 3, "tracebacks"),
        (cycles, 6, "cycles that changed a bit"),
    ],
)
def test_nothing_breaks(script, count, bad):
    figures = script.work(count, seed=1)
    assert figures[bad] == 0, figures


def test_the_event_that_another_user_waits_for_is_found(tmp_path):
    config = page.build(Studio(output=tmp_path, fixed=True)).config
    event = greedy_page.opening(config)
    (asked,) = (one for one in config["dependencies"] if one["id"] == event["fn_index"])
    assert any(name == "load" for _, name in asked["targets"]) and len(event["data"]) == len(asked["inputs"])
