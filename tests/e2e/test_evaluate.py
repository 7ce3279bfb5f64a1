"""The Evaluate tab in a real browser."""

import re
import threading
import zipfile
from dataclasses import replace
from functools import partial

import pytest

from mace_studio.evaluation import plan
from mace_studio.recipe import ImageRequest
from mace_studio.runtime import result_files
from mace_studio.runtime import studio as studio_module
from mace_studio.settings import ImageSettings
from mace_studio.ui.cards import beyond
from tests.e2e.axe import faults_at_both_sizes
from tests.steps import choose, field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser


@pytest.fixture
def measured_later(studio, fast):
    """The name of a new erasure of the car, there before the page is opened."""
    recipe = replace(
        fast.with_settings(images=ImageSettings(per_concept=1, steps=2, guidance=1.0)), name="car to measure"
    )
    return studio.erase(recipe).wait().name


@pytest.fixture
def tab(measured_later, page):
    """The tab with that erasure chosen."""
    page.get_by_role("tab", name="Evaluate").click()
    chosen = page.locator("#evaluate-model label:has(input:checked)")
    expect(chosen).to_have_text(re.compile(r"^\s*car to measure · .* · MACE"))  # the newest
    return page


@pytest.fixture
def quicker(monkeypatch):
    """A function after which a quick plan has so many captions, and two steps an image."""

    def shorten(captions):
        monkeypatch.setitem(plan.CAPTIONS, "quick", captions)
        monkeypatch.setattr(studio_module, "make_plan", partial(plan.make_plan, steps=2))

    return shorten


def downloaded(page):
    """The files of the report, by name."""
    with page.expect_download() as download:
        page.locator("#report-file").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_estimate_knows_the_pace_of_a_comparison_made_since(tab, studio, measured_later):
    tab.get_by_role("tab", name="Erase").click()
    studio.compare(measured_later, ImageRequest(("a photo of a car",), steps=2)).wait()
    tab.get_by_role("tab", name="Evaluate").click()
    expect(tab.locator("#plan-summary")).to_contain_text("at the pace of the last comparison")


def test_an_erasure_is_measured_and_the_report_downloaded(tab, studio, guard, quicker, monkeypatch):
    guard.allow_unloading()
    monkeypatch.setattr(beyond, "WORDS", 2)
    monkeypatch.setattr(beyond, "PAIRS", 2)
    said = "3 prompts with 8 seeds and 48 general captions, before and after: 144 images, 2,880 UNet forwards"
    expect(tab.locator("#plan-summary")).to_contain_text(said)
    quicker(8)
    tab.locator("#evaluate").click()
    expect(tab.locator("#scores tbody tr").nth(1)).to_be_visible()  # while it goes on, or after
    expect(tab.locator("#evaluate-progress")).to_contain_text("Finished")
    words = tab.locator("#scores tbody th")
    expect(words).to_have_text(["car", "all", "automobile", "all", "ship", "all"])
    expect(tab.locator("#scores-head tbody th")).to_have_text("car to measure")
    expect(tab.locator("#scores-head")).to_contain_text(re.compile(r"H_o \d"))
    expect(tab.locator("#scores-head")).to_contain_text(re.compile(r"Method.*Seconds per concept.*MACE\d+\.\d\d"))
    for word, meaning in (("H, top-1", "H: one figure for the whole; 100 % is best"), ("KID", "KID: how far images")):
        expect(tab.locator("#scores-head").get_by_role("button", name=f"What is {word}?")).to_be_visible()
        expect(tab.locator("#scores-head .hint", has_text=meaning)).to_be_visible()
    expect(tab.locator("#judged")).to_contain_text("choosing among car, ship, none of these")
    tab.locator("#judged").get_by_role("button", name="What is KID?").click()
    expect(tab.locator("#glossary .is-sought dt")).to_have_text("KID, FID")
    tab.locator("#glossary .glossary-close").click()
    expect(tab.locator("#spills img")).to_have_count(8)
    expect(tab.locator("#spills figcaption")).to_contain_text("· seeds 10000 to 10003")
    expect(tab.locator("#samples")).to_be_empty()
    expect(tab.locator("#sheets img")).to_have_count(4)
    files = downloaded(tab)
    assert {"report.md", "report.json", "scores.csv", "scores.png"} <= set(files)
    text = files["report.md"].decode()
    assert re.search(r"\| Efficacy \| car \| 8 \| \d", text) and "Beyond the list" not in text
    tab.locator("#look-beyond").click()
    expect(tab.locator("#beyond figcaption")).to_have_count(2)
    near = tab.locator("#beyond figcaption b").all_inner_texts()
    for _ in range(50):  # it is written again
        text = downloaded(tab)["report.md"].decode()
        if "## Beyond the list" in text:
            break
        tab.wait_for_timeout(200)
    assert all(f"\n| {word} | 1 | " in text for word in near)
    assert not (found := faults_at_both_sizes(tab)), found

    tab.reload()
    tab.get_by_role("tab", name="Evaluate").click()
    expect(tab.locator("#scores tbody th")).to_have_count(6)
    measured = next(entry for entry in studio.entries() if entry.recipe.name == "car to measure")
    assert "H_o, top-1" in [mean.name for mean in measured.scores]


def test_the_figures_do_not_wait_for_the_report(tab, quicker, monkeypatch):
    write, go_on = result_files.write_evaluation, threading.Event()

    def held(*arguments):
        assert go_on.wait(60)
        return write(*arguments)

    quicker(2)
    monkeypatch.setattr(result_files, "write_evaluation", held)
    tab.locator("#evaluate").click()
    try:
        expect(tab.locator("#scores-head tbody th")).to_have_text("car to measure")
        expect(tab.locator("#spills img")).to_have_count(8)
        expect(tab.locator("#report-file")).to_be_disabled()
        expect(tab.locator("#sheets img")).to_have_count(0)
    finally:
        go_on.set()
    expect(tab.locator("#report-file")).to_be_enabled()
    expect(tab.locator("#sheets img")).to_have_count(4)


def test_several_stand_side_by_side(erased, tab, quicker):
    quicker(4)
    tab.locator("#evaluate-model label", has_text="erased car · ").locator("input").check()
    expect(tab.locator("#plan-summary")).to_contain_text("2 erased models, at most 112 images")
    tab.locator("#evaluate").click()
    expect(tab.locator("#scores .is-group").nth(1)).to_be_visible()
    expect(tab.locator("#evaluate-progress")).to_contain_text("Finished")
    expect(tab.locator("#scores-head tbody th")).to_have_text(["car to measure", "erased car"])
    expect(tab.locator("#scores-head tbody tr").first.locator(".score")).to_have_count(6)
    expect(tab.locator("#scores tbody th")).to_have_text(["car", "all", "automobile", "all", "ship", "all"] * 2)
    expect(tab.locator("#judged")).to_contain_text("car to measure Judge: built-in judge")
    expect(tab.locator("#spills img")).to_have_count(16)
    expect(tab.locator("#sheets img")).to_have_count(10)  # with the scatter
    with tab.expect_download() as download:
        tab.locator("#report-file").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = archive.namelist()
        assert {"side-by-side.md", "side-by-side.png", "scatter.png", f"{erased}/report.md"} <= set(names)
        assert sum(name.endswith("/scores.csv") for name in names) == 2
        assert "| car to measure |" in archive.read("side-by-side.md").decode()


def test_a_judge_that_is_not_there_is_named_and_what_was_measured_outlives_a_cancel(tab, quicker):
    field(tab, "evaluate-judge").fill("/nowhere/clip")
    tab.locator("#evaluate").click()
    expect(tab.locator("#evaluate-notice")).to_contain_text("The judge /nowhere/clip could not be loaded")
    field(tab, "evaluate-judge").fill("")
    choose(tab, "#evaluate-plan", "Full: at least 56 images a word")
    expect(tab.locator("#plan-summary")).to_contain_text("56 seeds and 256 general captions")
    choose(tab, "#evaluate-plan", "Quick: at least 8 images a word")
    quicker(256)  # after the words
    tab.locator("#evaluate").click()
    expect(tab.locator("#scores tbody th")).to_have_text(["car", "automobile", "ship"])
    expect(tab.locator("#scores-head")).to_contain_text("Not finished: more words follow.")
    expect(tab.locator("#samples img")).to_have_count(24)
    expect(tab.locator("#samples figcaption").first).to_contain_text("· seeds 10000 to 10003")
    tab.locator("#evaluate-cancel").click()
    expect(tab.locator("#evaluate-progress")).to_contain_text("Cancelled")
    unfinished = tab.locator("#scores-head", has_text="Unfinished: this was stopped, and is no result.")
    expect(unfinished).to_be_visible()
    expect(tab.locator("#scores tbody th")).to_have_text(["car", "automobile", "ship"])
    expect(tab.locator("#samples img")).to_have_count(24)
    expect(tab.locator("#spill-card")).to_be_hidden()
    expect(tab.locator("#report-file")).to_be_disabled()


@pytest.mark.parametrize("context", [{"viewport": {"width": 390, "height": 844}, "has_touch": True}], indirect=True)
def test_the_tab_fits_a_phone(tab, quicker):
    quicker(2)
    tab.locator("#evaluate").click()
    expect(tab.locator("#evaluate-progress")).to_contain_text("Finished")
    expect(tab.locator("#evaluate-progress")).to_be_in_viewport()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    expect(tab.locator("#evaluate")).to_be_in_viewport()
    for table in ("#scores-head", "#scores"):  # what has no room is behind a scroll bar of its own, not over the edge
        last, card = tab.locator(f"{table} tr").first.locator("th").last, tab.locator("#scores-card").bounding_box()
        last.evaluate("one => one.scrollIntoView({ inline: 'end' })")
        box = last.bounding_box()
        assert card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"]
