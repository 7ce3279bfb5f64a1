"""What axe-core says of a page."""

import importlib
import os

import pytest

try:
    axe_playwright = importlib.import_module("axe_playwright_python.sync_playwright")
except ImportError:
    axe_playwright = None

# With a rule of WCAG 2.2: controls are 24 px high and wide, or far apart. A theme changes no more than colours.
AXE = {
    "light": {"rules": {"target-size": {"enabled": True}}, "resultTypes": ["violations"]},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "resultTypes": ["violations"]},
}
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def faults(page, themes=("light", "dark")):
    """The serious faults of accessibility of what is on the page, in some themes."""
    if axe_playwright is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no axe: pip install axe-playwright-python")
    page.evaluate(axe_playwright.Axe().axe_script)  # once for all themes: half a megabyte, which takes a while to read
    found = {}
    for theme in themes:
        page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
        for fault in page.evaluate("(options) => axe.run(options).then((told) => told.violations)", AXE[theme]):
            if fault["impact"] in ("serious", "critical"):
                found[theme, fault["id"]] = [node["html"][:160] for node in fault["nodes"]]
    return found


def faults_at_both_sizes(page):
    """The same in a wide window, and in light on a phone; the page is left wide."""
    found = faults(page)
    page.set_viewport_size(PHONE)
    found |= {("phone", *place): nodes for place, nodes in faults(page, ["light"]).items()}
    page.set_viewport_size(WIDE)
    return found
