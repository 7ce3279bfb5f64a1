"""The queue card in a real browser: several jobs of one user, put in another order, cancelled, and gone on with."""

import re
import sqlite3
from dataclasses import replace

import pytest

from mace_studio.recipe import Concept
from mace_studio.runtime import job_log

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser


def named(recipe, name, phrase="frog"):
    return replace(recipe, name=name, concepts=(Concept(phrase, "grass"),), preserve=())


def row(page, title):
    return page.locator("#queue li", has_text=title)


def test_erasures_wait_change_places_and_are_cancelled(page, studio, slow, fast, open_recipe):
    expect(page.locator("#wait")).to_be_empty()
    first = studio.erase(named(slow, "first one"), watched=False)
    try:
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


def test_what_a_restart_broke_off_goes_on_by_one_button_or_is_forgotten(page, studio, fast, guard):
    guard.allow_unloading()
    for name in ("Broken one", "Broken two"):
        studio.erase(named(fast, name)).wait()
        with sqlite3.connect(studio.output / "jobs" / job_log.NAME) as table:
            values = (f"Erase {name}",)
            table.execute("UPDATE jobs SET state = 'running', owner = 'gone', id = id || 'x' WHERE title = ?", values)
    page.reload()
    one, two = (row(page, name).filter(has_text="interrupted") for name in ("Broken one", "Broken two"))
    expect(one).to_be_visible()
    two.get_by_role("button", name="Forget").click()
    expect(two).to_have_count(0)
    one.get_by_role("button", name="Go on").click()
    expect(one).to_have_count(0)
    expect(row(page, "Broken one").last).to_contain_text(re.compile("running|waits|done"))
    assert studio.interrupted() == []


def test_a_recipe_that_cannot_run_is_refused_at_its_field(page, fast, open_recipe):
    open_recipe(page, named(fast, "", "owl"))
    page.locator('#concepts [data-cell="0-1"]').fill("")
    expect(page.locator("#estimate")).to_contain_text("Say what “owl” maps to")
    page.locator("#queue-add").click()
    expect(page.locator("#queue-notice")).to_contain_text("Say what “owl” maps to")
