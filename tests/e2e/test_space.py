"""The app as a Space runs it: with its environment, for several users, in the frame of the hub's page."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from mace_studio import presets
from mace_studio.erasure import Erasure
from mace_studio.recipe import Recipe
from mace_studio.runtime import examples, library
from mace_studio.ui.sessions import COOKIE
from tests.e2e.serving import app

READY = {f"miniature/{name}" for name in examples.NAMES}
ROOT = Path(__file__).parents[2]
# No general captions, whose encoding would take longest.
RECIPE = {
    "concepts": [{"phrase": "cat", "mapping": "forest"}],
    "preserve": ["dog"],
    "refine": {"preserve": 1.0, "identity": 1.0},
    "lora": {"steps": 0},
}
SPACE = {
    "SPACE_ID": "mace-studio/mace-studio",
    "SPACE_HOST": "mace-studio-mace-studio.hf.space",
    "SYSTEM": "spaces",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder that the app runs in. What it would make of its presets first is there already, in name only."""
    folder = tmp_path_factory.mktemp("space")
    for preset in presets.presets():
        if preset.name in READY:
            made = Erasure(recipe=preset.recipe, weights={"none": torch.zeros(1)}, fingerprint="none")
            made.save(folder / "output" / f"{preset.name.removeprefix('miniature/')}.safetensors")
    return folder


@pytest.fixture(scope="module")
def space(home):
    with app(cwd=home, **SPACE) as address:
        yield address


def user(space, name):
    """A program that comes back with the same cookie."""
    return Client(space, verbose=False, analytics_enabled=False, headers={"Cookie": f"{COOKIE}={name}"})


def test_the_hub_may_frame_it_and_nobody_else(space):
    policy = httpx.get(space).headers["content-security-policy"]
    ancestors = re.search(r"frame-ancestors ([^;]*)", policy)[1].split()
    assert ancestors == ["'self'", "https://huggingface.co", "https://*.huggingface.co"]


def test_a_user_gets_a_cookie_once(space):
    cookie = httpx.get(space).headers["set-cookie"]
    assert re.match(rf"{COOKIE}=[0-9a-f]{{32}}; ", cookie)
    for part in ("HttpOnly", "Secure", "SameSite=None", "Partitioned"):
        assert part in cookie
    assert "set-cookie" not in httpx.get(space, headers={"Cookie": f"other=1; {COOKIE}=ann"}).headers


def test_users_see_their_own_and_the_ready_made(space, home):
    ann, bob = user(space, "ann"), user(space, "bob")
    made = ann.predict(recipe=RECIPE, api_name="/erase")["result"]
    assert made["name"] in {e["name"] for e in ann.predict(api_name="/erasures")}
    assert {e["name"] for e in bob.predict(api_name="/erasures")} == set(examples.NAMES)
    with pytest.raises(AppError, match="no erased model"):
        bob.predict(name=made["name"], prompts=["a cat"], steps=1, api_name="/compare")
    job = ann.predict(name=made["name"], prompts=["a cat"], steps=1, api_name="/compare")
    assert httpx.get(job["result"]["pairs"][0]["url"]).status_code == 200
    assert list((home / "output" / "users").glob(f"*/{made['name']}.safetensors"))
    assert not list((home / "output").glob(f"{made['name']}*"))


def test_what_does_not_fit_the_limits_is_refused_with_a_remedy(space):
    with pytest.raises(AppError, match="lent to a user at once; erase fewer concepts"):
        user(space, "ann").predict(recipe=RECIPE | {"lora": {"steps": 5000}}, api_name="/erase")


def test_no_path_of_the_host_is_shown(space, home):
    """Neither of the project nor of the folder it runs in nor of anybody's home, wherever a user looks."""
    hosts = [str(ROOT), str(home), str(Path.home()) + "/", sys.prefix]
    ann = user(space, "ann")
    made = ann.predict(recipe=RECIPE, api_name="/erase")["result"]
    told = [made["url"], *ann.predict(name=made["name"], format="lora", api_name="/export")["result"]["urls"]]
    told += [str(ann.predict(name=made["name"], prompt="a cat", steps=1, api_name="/inspect"))]
    for asked in ({"name": "../x", "prompts": ["a"]}, {"name": "x", "prompts": ["a"]}, {"name": {}, "prompts": []}):
        with pytest.raises(AppError) as error:
            ann.predict(**asked, api_name="/compare")
        told.append(str(error.value))
    for page in ("", "config", "gradio_api/info", "gradio_api/startup-events", "theme.css", "manifest.json"):
        told.append(httpx.get(space + page).text)
    for path in ("/etc/passwd", "app.py", "output", f"{ROOT}/app.py", "output/users"):
        answer = httpx.get(f"{space}gradio_api/file={path}")
        assert answer.status_code in (403, 404)
        told.append(answer.text.replace(path, ""))
    leaks = [(host, text[max(0, text.find(host) - 80) : text.find(host) + 80]) for host in hosts for text in told]
    assert [leak for leak in leaks if leak[0] in leak[1]] == []


def test_the_page_config_offers_only_the_built_in_models_presets(space):
    config = httpx.get(space + "config").json()
    select = next(c["props"]["props"] for c in config["components"] if c["props"].get("elem_id") == "preset")
    names = [name for group in json.loads(select["groups"]) for name, _ in group["options"]]
    assert names and all(name.startswith("miniature/") for name in names)


def test_an_upload_that_is_too_large_is_refused(space):
    answer = httpx.post(f"{space}gradio_api/upload", files={"files": ("big.json", b"x" * 21_000_000)})
    assert answer.status_code == 413


@pytest.mark.skipif(find_spec("spaces") is None, reason="spaces is not installed")
def test_the_gpu_is_asked_for_by_the_call():
    """Where none is lent call by call, the decorator gives back the function itself."""
    check = (
        "import sys, os; os.environ['SPACE_ID'] = 'a/b'; sys.argv = ['app.py']\n"
        "import app, spaces\n"
        "from mace_studio.runtime.perform import perform\n"
        "assert app.start.PERFORM is perform and app.studio.fixed\n"
        "app.studio.prepare()\n"
        "assert app.studio.status().state == 'ready'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_app_runs_without_spaces():
    check = (
        "import sys; sys.modules['spaces'] = None; import app; from mace_studio.runtime.perform import perform\n"
        "assert app.start.PERFORM is perform"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_ready_made_are_erased_once(tmp_path, monkeypatch):
    recipe = Recipe.from_json(json.dumps(RECIPE))
    own = tmp_path / "presets" / "miniature"
    own.mkdir(parents=True)
    (own / "cat.json").write_text(recipe.to_json())
    monkeypatch.setattr(presets, "PRESETS", own.parent)
    monkeypatch.setattr(examples, "NAMES", ("cat",))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    examples.make(tmp_path / "output")
    (entry,) = library.entries(tmp_path / "output")
    assert entry.recipe == recipe
    examples.make(tmp_path / "output")
    assert library.entries(tmp_path / "output") == [entry]


def test_the_ready_made_are_presets():
    assert {preset.name for preset in presets.presets()} >= READY
