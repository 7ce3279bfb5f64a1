"""Screenshots of every tab, and how heavy the page is: `python tests/tour.py FOLDER`, with Chromium.

Whole pages are written as PNG, and what is seen at first as small WebP files for `docs/tour.md` into FOLDER/docs.

Erases from the built-in model, goes through the tabs at two sizes in both themes, and prints with one concept and with
a hundred: seconds until the page is ready, elements of the DOM, scripts and their bytes, milliseconds a typed letter.
"""

import io
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from mace_studio.presets import presets
from mace_studio.runtime.studio import Studio
from mace_studio.ui import page as page_module
from mace_studio.ui import server

SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
TABS = ("erase", "compare", "attention", "evaluate", "models")
PATIENCE = 300_000
WIDTH = 960  # pixels of a small screenshot
RECIPE = next(preset.recipe for preset in presets() if preset.name == "miniature/cat")


def serve(output: Path) -> tuple[Studio, str]:
    """A studio with an erased model, and the address of its page."""
    studio = Studio(output=output)
    studio.erase(RECIPE).wait()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server.launch(page_module.build(studio), "127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    return studio, f"http://127.0.0.1:{port}/"


def opened(browser, address: str, size: tuple[int, int], theme: str, mode: str = "expert") -> Page:
    """The page when the model is there."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(
        f"try {{ localStorage['mace-mode'] = '{mode}'; localStorage['mace-first-run'] = 'done' }} catch {{}}"
    )
    page = context.new_page()
    page.goto(f"{address}?__theme={theme}")
    page.locator("#header .is-ready").wait_for()
    return page


def tab(page: Page, name: str) -> None:
    """Go to a tab, which is behind a button on a narrow screen if it does not fit."""
    page.get_by_role("tab", name=name.capitalize()).click()
    page.wait_for_timeout(800)


def finished(page: Page, progress: str) -> None:
    page.locator(progress).get_by_text("in all").wait_for()


def choose_method(page: Page, title: str) -> None:
    page.locator("#method input").click()
    page.get_by_role("option", name=title, exact=True).click()


def work(page: Page, folder: Path) -> None:
    """Something to see on every tab, as a user would ask for it; two of it are written as files of their own."""
    choose_method(page, "UCE")
    page.locator("#uce-about").wait_for()
    page.locator("#erase").click()
    page.locator("#outcome .verdict").wait_for()
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_timeout(800)
    small(page.screenshot(), folder / "docs" / "method.webp")
    choose_method(page, "MACE")
    page.locator("#mace-about").wait_for()
    page.locator("#clear-keep").click()
    for phrase in ("dog", "horse"):
        page.get_by_label("Phrases to keep", exact=True).fill(phrase)
        page.keyboard.press("Enter")
    page.locator("#erase").click()
    page.locator("#outcome .verdict").wait_for()
    page.locator("#show-masks").click()
    page.locator("#mask-grid img").first.wait_for()
    tab(page, "compare")
    page.locator("#other-models label", has_text="UCE").locator("input").check()
    page.locator("#generate").click()
    finished(page, "#compare-progress")
    small(page.locator("#grid-card").screenshot(), folder / "docs" / "grid.webp")
    tab(page, "attention")
    page.locator("#read").click()
    finished(page, "#attention-progress")
    tab(page, "evaluate")
    page.locator("#evaluate").click()
    finished(page, "#evaluate-progress")
    page.locator("#look-beyond").click()
    finished(page, "#beyond-progress")
    tab(page, "models")
    page.locator("#models input").first.check()
    page.locator("#details .pairs").wait_for()
    page.wait_for_timeout(800)


def shoot(page: Page, folder: Path, size: str, theme: str) -> None:
    """The Simple view and every tab from top to bottom, with its images loaded."""
    page.evaluate("() => document.body.classList.toggle('dark', " + str(theme == "dark").lower() + ")")
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    for name in ("simple", *TABS):
        tab(page, "erase" if name == "simple" else name)
        if name in ("simple", "erase"):
            page.get_by_role("button", name="Simple" if name == "simple" else "Expert", exact=True).click()
        page.evaluate("() => document.querySelectorAll('img').forEach((one) => { one.loading = 'eager' })")
        page.evaluate("() => scrollTo(0, 0)")
        page.wait_for_timeout(400)
        page.screenshot(path=folder / f"{name}-{size}-{theme}.png", full_page=True)
        small(page.screenshot(), folder / "docs" / f"{name}-{size}-{theme}.webp")


def small(screenshot: bytes, path: Path) -> None:
    """Write a screenshot as a small WebP file."""
    seen = Image.open(io.BytesIO(screenshot))
    seen.thumbnail((WIDTH, 2 * WIDTH))
    seen.save(path, quality=60, method=6)


def weigh(browser, address: str) -> None:
    """Print how heavy the page is, with one concept and with a hundred."""
    begun = time.monotonic()
    page = opened(browser, address, SIZES["desktop"], "light")
    print(f"page ready after {time.monotonic() - begun:.1f} s")
    for count in (1, 100):
        if count > 1:
            page.locator("#paste-list").click()
            page.locator("#pasted textarea").fill("\n".join(f"cat {i} -> forest" for i in range(99)))
            page.locator("#add-pasted").click()
            page.get_by_role("button", name="Erase 100 concepts", exact=True).wait_for()
            page.wait_for_timeout(2000)
        elements = page.evaluate("document.querySelectorAll('*').length")
        scripts = page.evaluate(
            "performance.getEntriesByType('resource').filter((one) => one.name.includes('.js'))"
            ".map((one) => one.encodedBodySize)"
        )
        page.locator("#concepts [data-cell='0-0']").focus()
        taken = []
        for letter in "elephantine":
            begun = time.monotonic()
            page.keyboard.press(letter)
            page.evaluate("new Promise((seen) => requestAnimationFrame(() => setTimeout(seen)))")
            taken.append(time.monotonic() - begun)
        print(
            f"{count} concepts: {elements} elements, {len(scripts)} scripts of {sum(scripts) / 2**20:.1f} MB, "
            f"{1000 * median(taken):.0f} ms a letter"
        )
    page.context.close()


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    os.chdir(tempfile.mkdtemp())  # so that the page names no folder of this machine
    _, address = serve(Path("output"))
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        weigh(browser, address)
        page = opened(browser, address, SIZES["desktop"], "light")
        work(page, folder)
        for size in SIZES:
            for theme in ("light", "dark"):
                shoot(page, folder, size, theme)
        browser.close()


if __name__ == "__main__":
    main()
