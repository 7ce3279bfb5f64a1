"""The image at work is seen while it is generated, on the Erase and the Compare tab, and goes when it is over."""

from dataclasses import replace

import pytest

from mace_studio.runtime import previews
from tests.steps import field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The built-in model is too quick for a rate of seconds."""
    monkeypatch.setattr(previews, "EVERY", 0.0)
    monkeypatch.setattr(previews, "SHARE", float("inf"))


def seen_until_cancelled(page, name):
    image = page.locator(f"#{name}-progress .is-at-work")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.complete && image.naturalWidth") == 64
    expect(image).to_have_attribute("alt", "The image at work, not finished yet")
    first = image.get_attribute("src")
    expect(image).not_to_have_attribute("src", first)
    page.locator(f"#{name}-cancel").click()
    expect(page.locator(f"#{name}-progress")).to_contain_text("Cancelled")
    expect(image).to_have_count(0)


def test_a_training_image_is_seen_while_it_is_generated(page, fast, open_recipe):
    images = replace(fast.settings.images, per_concept=8, steps=900)
    open_recipe(page, replace(fast.with_settings(images=images), seed=5))
    page.locator("#erase").click()
    seen_until_cancelled(page, "erase")


def test_an_image_to_compare_is_seen_while_it_is_generated(page, erased):
    page.get_by_role("tab", name="Compare", exact=True).click()
    field(page, "compare-steps").fill("900")
    page.locator("#generate").click()
    seen_until_cancelled(page, "compare")
