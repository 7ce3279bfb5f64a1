"""The real studio with the built-in model behind a real page, and guards around every visit."""

import gc
import json
import os
import shutil
import socket
import tempfile
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import pytest

# Read when gradio is imported: a closed tab is noticed in half a second instead of fifteen.
os.environ["GRADIO_HEARTBEAT_INTERVAL"] = "0.5"

from mace_studio import presets as presets_module
from mace_studio.evaluation.plan import make_sample
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import studio as studio_module
from mace_studio.runtime import vocabulary
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from mace_studio.ui import page as page_module
from mace_studio.ui import server

LOOPBACK = {"127.0.0.1", "localhost", "::1", None}
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")  # the first takes the least of the processor
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Parts of the browser's own window, which nobody sees; they cost a fifth of the time in which a page opens.
    "--disable-features=PreloadTopChromeWebUI,WebUIOmniboxPopup,WebUITabStrip,TabSearch"
    # What Playwright switches off itself, which this takes the place of.
    ",PaintHolding,HttpsUpgrades,MediaRouter,OptimizationHints,DestroyProfileOnBrowserClose,LensOverlay",
]
FAST = Recipe(
    concepts=(Concept("car", "street", "object", ("automobile",)),),
    preserve=("ship",),
    about="A run of seconds, for the tests.",
    settings=MaceSettings(
        refine=KeepWeights(preserve=1.0, identity=0.1),
        fuse=KeepWeights(preserve=1.0, identity=0.1),
        lora=LoraSettings(steps=2, learning_rate=1e-3),
        images=ImageSettings(per_concept=1, steps=2),
    ),
)


@pytest.fixture(scope="session")
def fast():
    """A recipe that runs in a second or two."""
    return FAST


@pytest.fixture(scope="session")
def slow():
    """A recipe that runs until someone stops it."""
    return FAST.with_settings(lora=LoraSettings(steps=5000))


@pytest.fixture(scope="session")
def lookups():
    """Every name that this process looked up and that is not this machine: there must be none."""
    seen, real = [], socket.getaddrinfo

    def spy(host, *rest, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in LOOPBACK:
            seen.append(name)
        return real(host, *rest, **options)

    socket.getaddrinfo = spy
    yield seen
    socket.getaddrinfo = real
    assert not seen, f"Python looked up {seen}"


@pytest.fixture(scope="session")
def short_looks():
    """The images at the end of each erasure take one step, since no test asks what is on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "make_sample", partial(make_sample, steps=1))
        yield


@pytest.fixture(scope="session")
def studio(lookups, short_looks, tmp_path_factory):
    made = studio_module.Studio(output=tmp_path_factory.mktemp("output"))
    yield made
    # The process must not end while a thread computes: it would be aborted.
    jobs = made.jobs()
    for job in jobs:
        job.cancel()
    for job in jobs:
        for _ in job.watch():
            pass


@pytest.fixture(scope="session")
def erased(studio, fast):
    """The name of an erased model."""
    return studio.erase(replace(fast, seed=99, name="erased car")).wait().name


@pytest.fixture(scope="session")
def base_url(studio, fast, tmp_path_factory):
    presets = tmp_path_factory.mktemp("presets")
    (presets / "miniature").mkdir()
    (presets / "miniature" / "car.json").write_text(fast.to_json())
    other = replace(fast, concepts=(Concept("frog", "grass"),), about="Another <b>preset</b>.", seed=3)
    (presets / "other.json").write_text(other.to_json())
    (presets / "paper").mkdir()
    paper = replace(fast, concepts=(Concept("owl", "sky"),), about="A preset for another model.", seed=5)
    (presets / "paper" / "owl.json").write_text(paper.to_json())
    real, presets_module.PRESETS = presets_module.PRESETS, presets
    demo = page_module.build(studio)
    presets_module.PRESETS = real
    for known in (presets_module.known_phrases, presets_module.known_kinds):
        known.cache_clear()  # of the presets of these tests
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server.launch(demo, "127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    gc.freeze()  # the page is there until the end, too: see `pytest_collection_finish`
    yield f"http://127.0.0.1:{port}/"
    demo.close()


@pytest.fixture(scope="session")
def browser():
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not chromium:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no Chromium: apt-get install chromium, or name it in CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    home = tempfile.mkdtemp(prefix="chromium-")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=FLAGS, env={**os.environ, "HOME": home})
        yield started
        started.close()
    shutil.rmtree(home, ignore_errors=True)


# What Gradio says of a page that is being left while it listens, or that asks once more after its session is closed.
UNLOADING = (
    "AbortError",
    "Connection errored out",
    "network error",
    "Failed to fetch",
    "Unexpected error 404",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
)


class Guard:
    """What a page did that no page may do."""

    def __init__(self):
        self.faults = []
        self.allowed = []
        self.handlers = {
            "request": self.on_request,
            "console": lambda m: self.note("console", m.text) if m.type == "error" else None,
            "pageerror": lambda e: self.note("script", str(e)),
            "response": lambda r: self.note("answer", f"{r.status} {r.url}") if r.status >= 400 else None,
            "dialog": self.on_dialog,
        }

    def allow(self, *parts):
        """Let messages pass that hold one of these."""
        self.allowed += parts

    def allow_unloading(self):
        """Let pass what is said while a page is being left."""
        self.allow(*UNLOADING)

    def watch(self, page):
        for event, handler in self.handlers.items():
            page.on(event, handler)

    def leave(self, page):
        """What the page does from now on is nobody's fault."""
        for event, handler in self.handlers.items():
            page.remove_listener(event, handler)

    def on_request(self, request):
        if request.url.split(":")[0] not in ("data", "blob") and urlsplit(request.url).hostname not in LOOPBACK:
            self.note("outside", request.url)

    def on_dialog(self, dialog):
        self.note("dialog", dialog.message)
        dialog.dismiss()

    def note(self, kind, text):
        self.faults.append(f"{kind}: {text}")

    def check(self):
        assert [f for f in self.faults if not any(part in f for part in self.allowed)] == []


@pytest.fixture
def guard():
    made = Guard()
    yield made
    made.check()


@pytest.fixture(scope="session")
def contexts(browser):
    """The browser's contexts, one for each set of options: what it has loaded and compiled of the page is there again.

    A test that has one finds it without cookies and without what a page keeps, see `context`.
    """
    made = {}

    def context(mode="expert", **options):
        key = json.dumps([mode, options], sort_keys=True)
        if key not in made:
            made[key] = browser.new_context(**options)
            made[key].set_default_timeout(30_000)
            if mode:  # a page that is still empty keeps nothing
                made[key].add_init_script(f"try {{ localStorage['mace-mode'] ||= '{mode}' }} catch {{}}")
        return made[key]

    yield context
    for one in made.values():
        one.close()


@pytest.fixture
def context(contexts, guard, request):
    """What a test opens pages in, with all settings on them unless it says another mode."""
    options = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"} | getattr(request, "param", {})
    made = contexts(**options)
    made.on("page", guard.watch)
    for kept in made.pages:
        guard.watch(kept)
    yield made
    made.remove_listener("page", guard.watch)
    # The first page stays, empty: a new one costs the browser half a second.
    for number, one in enumerate(made.pages):
        if number:
            one.close()
        else:
            guard.leave(one)
            one.evaluate("try { sessionStorage.clear() } catch {}")
            one.goto("about:blank")
            one.set_viewport_size(options["viewport"])
    made.clear_cookies()


@pytest.fixture
def page(context, base_url):
    made = context.pages[0] if context.pages else context.new_page()
    forgotten = {"origin": base_url.rstrip("/"), "storageTypes": "local_storage,indexeddb,cache_storage"}
    context.new_cdp_session(made).send("Storage.clearDataForOrigin", forgotten)
    made.goto(base_url)
    made.locator("#header .is-ready").wait_for()
    return made


@pytest.fixture
def upload():
    """Choose a file for a page's upload button."""

    def uploaded(page, button, name, data):
        with page.expect_file_chooser() as chooser:
            page.locator(button).click()
        chooser.value.set_files({"name": name, "mimeType": "application/octet-stream", "buffer": data})

    return uploaded


@pytest.fixture
def open_recipe(upload):
    """Put a recipe into a page's form."""

    def opened(page, recipe):
        if isinstance(recipe, str):
            return upload(page, "#open-recipe", "recipe.json", recipe.encode())
        # A form that shows the same concept already would be taken for a full one before the answer is there.
        page.locator("#concepts").dispatch_event("clear-rows")
        upload(page, "#open-recipe", "recipe.json", recipe.to_json().encode())
        # The form is full when its last control shows what the recipe says.
        return page.wait_for_function(
            "([phrase, steps]) => document.querySelector('#concepts [data-cell=\"0-0\"]')?.value === phrase"
            " && document.querySelector('#lora-steps input, #lora-steps textarea').value === steps",
            arg=[recipe.concepts[0].phrase, str(recipe.settings.lora.steps)],
        )

    return opened


@pytest.fixture
def saved_recipe():
    """What the page saves as the form's recipe."""

    def saved(page):
        with page.expect_download() as download:
            page.locator("#save-recipe").click()
        return Recipe.from_json(json.dumps(json.loads(download.value.path().read_text(encoding="utf-8"))))

    return saved
