"""The studio for programs: what docs/api.md shows, as it stands there, and what a hostile caller tries."""

import json
import re
import subprocess
import sys
from concurrent.futures import CancelledError
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from mace_studio import erasure
from mace_studio.runtime.jobs import CANCELLED

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7860"


class Patient(Client):
    """Its stream ends when nothing is under way, and now and then the next call meets that end; then it asks again."""

    def predict(self, *args, **kwargs):
        for _ in range(2):
            try:
                return super().predict(*args, **kwargs)
            except CancelledError:
                continue
        return super().predict(*args, **kwargs)


@pytest.fixture(scope="module")
def client(base_url):
    return Patient(base_url, verbose=False, analytics_enabled=False)


def example(kind, base_url):
    """A program of the page, with the address of the studio under test."""
    code = re.search(rf"<!-- example: {kind} -->\n```\w+\n(.*?)```", DOCS, re.DOTALL)[1]
    assert ADDRESS in code
    return code.replace(ADDRESS, base_url.rstrip("/"))


def test_the_python_example_runs(base_url):
    command = [sys.executable, "-c", example("python", base_url)]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if "CancelledError" not in done.stderr:  # see Patient
            break
    assert done.returncode == 0, done.stderr
    first, urls = done.stdout.splitlines()
    change, url = first.split()
    assert float(change) > 0 and httpx.get(url).headers["content-type"] == "image/png"
    weights = next(url for url in json.loads(urls.replace("'", '"')) if url.endswith(".safetensors"))
    assert len(httpx.get(weights).content) > 100_000


def test_the_curl_example_runs(base_url, tmp_path):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example("curl", base_url)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert "event: complete" in done.stdout, done.stdout + done.stderr
    told = json.loads(done.stdout.rpartition("data: ")[2])[0]
    assert told["state"] == "done" and told["result"]["name"].startswith("ship-")


def test_every_endpoint_is_described_with_the_type_of_every_argument(base_url):
    offered = httpx.get(f"{base_url}gradio_api/info").json()["named_endpoints"]
    for name, endpoint in offered.items():
        assert endpoint["description"].endswith("."), name
        assert all(p["type"] and p["parameter_name"] for p in endpoint["parameters"]), name
        row = re.search(rf"\| `{name}` \| (.*?) \|", DOCS)[1]
        asked = [p["parameter_name"] for p in endpoint["parameters"] if p["parameter_name"] != "wait"]
        assert re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", row)) == asked, name


def test_the_default_values_are_told(base_url):
    compare = httpx.get(f"{base_url}gradio_api/info").json()["named_endpoints"]["/compare"]["parameters"]
    told = {p["parameter_name"]: p.get("parameter_default") for p in compare if p["parameter_has_default"]}
    assert told == {"seeds": [0], "steps": 20, "guidance": 7.5, "negative": "", "wait": 60.0}


def test_reading_attention_and_measuring(client, studio, erased):
    read = client.predict(name=erased, prompt="a photo of the car", steps=2, guidance=4.0, api_name="/inspect")
    words = [word for word, _ in read["result"]["runs"]["after"]["attention"]]
    assert "car" in words and read["result"]["urls"]
    residual = client.predict(name=erased, prompt="a photo of the car", steps=2, residual=True, api_name="/inspect")
    assert set(residual["result"]["runs"]) == {"original", "refined", "erased"}
    job = client.predict(name=erased, wait=0, api_name="/evaluate")
    assert job["state"] in ("queued", "running") and "result" not in job
    assert client.predict(job["job"], api_name="/status")["job"] == job["job"]
    client.predict(job["job"], api_name="/cancel")
    studio.job(job["job"]).wait()
    assert client.predict(job["job"], api_name="/status")["state"] == CANCELLED


def test_the_list_of_erasures_has_their_recipes(client, studio, erased):
    listed = {entry["name"]: entry["recipe"] for entry in client.predict(api_name="/erasures")}
    assert json.dumps(listed[erased]) == json.dumps(json.loads(json.dumps(asdict(studio.entry(erased).recipe))))


@pytest.mark.parametrize(
    ("endpoint", "asked", "said"),
    [
        ("erase", {"recipe": {}}, "Add at least one concept"),
        ("erase", {"recipe": {"concepts": [{"phrase": "cat"}]}}, "mapping"),
        ("erase", {"recipe": {"concept": []}}, "not known"),
        ("erase", {"recipe": [1]}, "named fields"),
        ("erase", {"recipe": {"concepts": [{"phrase": "cat", "mapping": "x"}]}, "wait": 1e9}, "0 to 600 seconds"),
        ("erase", {"recipe": {"concepts": [{"phrase": "cat", "mapping": "x"}]}, "wait": "soon"}, "number is needed"),
        ("compare", {"name": "none", "prompts": ["a"]}, "no erased model"),
        ("compare", {"name": "/etc/passwd", "prompts": ["a"]}, "Choose an erased model"),
        ("compare", {"name": "../output/x", "prompts": ["a"]}, "Choose an erased model"),
        ("compare", {"name": {"path": "/etc/passwd"}, "prompts": ["a"]}, "Text is needed"),
        ("compare", {"name": "ERASED", "prompts": "a"}, "list is needed"),
        ("compare", {"name": "ERASED", "prompts": ["a"], "steps": 1e9}, "whole number"),
        ("compare", {"name": "ERASED", "prompts": []}, "Type a prompt"),
        ("inspect", {"name": "ERASED", "prompt": "a", "seed": -1}, "at least 0"),
        ("inspect", {"name": "ERASED", "prompt": "a", "residual": "yes"}, "true or false"),
        ("evaluate", {"name": "ERASED", "plan": "vast"}, "no plan"),
        ("export", {"name": "ERASED", "format": "diffusers"}, "folder cannot be handed out"),
        ("export", {"name": "ERASED", "format": "../../x"}, "not known"),
        ("export", {"name": "ERASED", "format": "lora", "rank": 0}, "at least 1"),
        ("export", {"name": "ERASED", "format": "lora", "rank": "all"}, "whole number"),
        ("status", {"job": "none"}, "no such job"),
        ("cancel", {"job": 7}, "Text is needed"),
    ],
)
def test_what_cannot_be_done_is_refused_by_a_sentence(client, erased, endpoint, asked, said):
    asked = {key: erased if value == "ERASED" else value for key, value in asked.items()}
    with pytest.raises(AppError, match=f"(?i){said}"):
        client.predict(**asked, api_name=f"/{endpoint}")


def test_a_job_of_the_page_is_none_of_the_interface(client, studio, slow):
    job = studio.erase(slow)
    try:
        with pytest.raises(AppError, match="no such job"):
            client.predict(job.id, api_name="/cancel")
    finally:
        job.cancel()


def test_an_error_of_the_work_is_told_in_words(client, studio, erased):
    entry = studio.entry(erased)
    path = entry.path.with_name("foreign.safetensors")
    replace(erasure.load(entry.path), fingerprint="another", unet="").save(path)
    try:
        with pytest.raises(AppError, match="another model than miniature/model"):
            client.predict(name="foreign", prompts=["a"], steps=1, api_name="/compare")
    finally:
        path.unlink()
