"""The queue card in a real browser: several jobs of one user, put in another order and cancelled, and gone on with."""

import re
import sqlite3
from dataclasses import replace

import pytest

from mace_studio.recipe import Concept
from mace_studio.runtime import job_log
from mace_studio.ui.cards import queue
from tests.steps import choose_model, field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser


def named(recipe, name, phrase="frog"):
    return replace(recipe, name=name, concepts=(Concept(phrase, "grass"),), preserve=())


def row(page, title):
    return page.locator("#queue li", has_text=title)


@pytest.fixture
def soon(monkeypatch):
    """A page that is opened after this looks soon at the jobs of others."""
    monkeypatch.setattr(queue, "IDLE", 0.5)


def test_erasures_wait_change_places_and_are_cancelled(soon, page, studio, slow, fast, open_recipe):
    expect(page.locator("#wait")).to_be_empty()
    button = page.locator("#erase").bounding_box()
    first = studio.erase(named(slow, "first one"), watched=False)
    try:
        expect(page.locator("#wait")).to_contain_text("A new erasure waits for 1 job")
        assert page.locator("#erase").bounding_box() == button, "what comes and goes moves no button"
        for name, phrase in (("Aaa", "frog"), ("Bbb", "horse")):
            open_recipe(page, named(fast, name, phrase))
            page.locator("#queue-add").click()
            expect(row(page, name)).to_be_visible()
        expect(row(page, "first one")).to_contain_text("running")
        expect(page.locator("#wait")).to_contain_text("A new erasure waits for 3 jobs")
        expect(row(page, "Aaa")).to_contain_text("waits, next of yours")
        expect(row(page, "Bbb")).to_contain_text("waits, 1 job of yours before it")
        row(page, "Bbb").get_by_role("button", name="Earlier").click()
        expect(row(page, "Bbb")).to_contain_text("waits, next of yours")
        row(page, "Aaa").get_by_role("button", name="Cancel").click()
        expect(row(page, "Aaa")).to_contain_text("cancelled")
    finally:
        first.cancel()
    expect(row(page, "Bbb")).to_contain_text("done")
    expect(page.locator("#wait")).not_to_contain_text("waits")
    assert any(entry.recipe.name == "Bbb" for entry in studio.entries())


@pytest.mark.slow
def test_quick_presses_are_all_answered_and_none_is_about_another_job(soon, page, studio, slow, fast, open_recipe):
    studio.erase(named(slow, "runs long"), watched=False)
    try:
        open_recipe(page, named(fast, "Xaa", "frog"))
        page.locator("#queue-add").dblclick()
        expect(page.locator("#queue-notice")).to_contain_text("The same erasure is in the queue already.")
        expect(row(page, "Xaa")).to_have_count(1)
        for name, phrase in (("Xbb", "horse"), ("Xcc", "bird")):
            open_recipe(page, named(fast, name, phrase))
            page.locator("#queue-add").click()
            expect(row(page, name)).to_be_visible()
        expect(page.locator("#queue-notice")).to_have_text("")
        waiting = page.locator("#queue li", has_text="waits")

        def twice(title, action):
            """Press where the pointer is once more when the list has answered the first press."""
            button = row(page, title).get_by_role("button", name=action)
            before = page.locator("#queue").inner_text()
            button.scroll_into_view_if_needed()
            box = button.bounding_box()
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_function("before => document.querySelector('#queue').innerText !== before", arg=before)
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

        twice("Xaa", "Later")
        expect(waiting.locator("b")).to_have_text([re.compile(name) for name in ("Xbb", "Xcc", "Xaa")])
        twice("Xbb", "Cancel")
        expect(row(page, "Xbb")).to_contain_text("cancelled")
        page.wait_for_timeout(1000)
        expect(row(page, "runs long")).to_contain_text("running")
        expect(waiting.locator("b")).to_have_text([re.compile(name) for name in ("Xcc", "Xaa")])
    finally:
        for job in studio.jobs():
            job.cancel()


def test_what_a_restart_broke_off_goes_on_by_one_button_or_is_forgotten(page, studio, fast, erased, guard):
    guard.allow_unloading()
    line = page.locator("#broken-off li")
    page.get_by_role("tab", name="Compare").click()
    choose_model(page, "#erased-model", "erased car")
    expect(field(page, "prompts")).to_have_value("a photo of the car\na photo of the ship")  # or it comes while typing
    for elem_id, text in {"prompts": "a photo of the car", "seeds": "0", "compare-steps": "1"}.items():
        field(page, elem_id).fill(text)
    page.locator("#generate").click()
    expect(page.locator("#sheet-file")).to_be_enabled()
    begun_here = studio.jobs()[-1]
    for job in (studio.erase(named(fast, "Broken one")), studio.erase(named(fast, "Broken two")), begun_here):
        job.wait()
        with sqlite3.connect(studio.output / "jobs" / job_log.NAME) as table:
            # As of another studio, whose job this one does not know.
            table.execute("UPDATE jobs SET state = 'running', owner = 'gone', id = id || '0' WHERE id = ?", (job.id,))
    page.reload()
    expect(line).to_have_count(3)
    page.get_by_role("button", name="Simple", exact=True).click()
    one, two, compared = (line.filter(has_text=title) for title in ("Broken one", "Broken two", "Compare"))
    expect(one).to_contain_text("interrupted")
    two.get_by_role("button", name="Forget").click()
    expect(two).to_have_count(0)
    one.get_by_role("button", name="Go on").click()  # it is watched as if it had just been begun here
    expect(one).to_have_count(0)
    expect(page.locator("#summary")).to_contain_text("Saved as broken-one")
    expect(page.locator("#erase-progress")).to_contain_text("Finished")
    compared.get_by_role("button", name="Go on").click()
    expect(compared).to_contain_text("done")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert studio.interrupted() == []
    page.reload()
    expect(page.locator("#summary")).to_contain_text("Saved as broken-one")
    expect(line).to_have_count(0)
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#pairs img")).to_have_count(1)
    expect(page.locator("#shown-model")).to_contain_text("erased car · ")


def test_a_recipe_that_cannot_run_is_refused_at_its_field(page, fast, open_recipe):
    open_recipe(page, named(fast, "", "owl"))
    page.locator('#concepts [data-cell="0-1"]').fill("")
    expect(page.locator("#estimate")).to_contain_text("Say what “owl” maps to")
    page.locator("#queue-add").click()
    expect(page.locator("#queue-notice")).to_contain_text("Say what “owl” maps to")
