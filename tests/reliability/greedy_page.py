"""A started page under the calls of one greedy program: what they are answered, and how long another page waits."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import httpx

from mace_studio.runtime.studio import Studio
from mace_studio.ui import page, server, sessions
from tests.reliability.common import small

GREEDY, OTHER = "127.0.0.1", "127.0.0.2"  # two machines, as far as the page can see
BEFORE, DURING, PAUSE = 10, 30, 0.2  # page events, and seconds between two of them
STEPS = 60  # of a LoRA: an erasure takes seconds, so that the greedy program's are under way all the time


def serve(port: int) -> None:
    """The page as many users share it, until the process ends; the model is loaded."""
    output = Path(tempfile.mkdtemp())
    studio = Studio(output=output, fixed=True, user=sessions.folder, machine=sessions.machine)
    server.launch(page.build(studio), GREEDY, shared=True, server_port=port, quiet=True, prevent_thread_lock=True)
    while True:
        time.sleep(60)


def client(address: str, machine: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(local_address=machine, limits=httpx.Limits(max_connections=None))
    return httpx.AsyncClient(base_url=address, transport=transport, timeout=300)


async def call(greedy: httpx.AsyncClient, seed: int) -> int:
    """Post one erasure, and read its answer if it was taken; gives the status of the post."""
    recipe = json.loads(json.dumps(asdict(small("cat", steps=STEPS, seed=seed))))
    recipe = {"concepts": recipe["concepts"], "preserve": ["tree"], "seed": seed, **recipe["settings"]}
    posted = await greedy.post("gradio_api/call/erase", json={"data": [recipe, 60.0]})
    return posted.status_code if posted.is_error else await answered(greedy, posted.json()["event_id"])


async def answered(greedy: httpx.AsyncClient, event: str) -> int:
    async with greedy.stream("GET", f"gradio_api/call/erase/{event}") as stream:
        async for _ in stream.aiter_lines():
            pass
    return 200


async def page_event(other: httpx.AsyncClient, body: dict) -> tuple[int, float]:
    """One event of a page: the status of its post, and the seconds until its handler's answer was there."""
    begun = time.monotonic()
    posted = await other.post("gradio_api/queue/join", json=body)
    if not posted.is_error:
        stream = other.stream("GET", "gradio_api/queue/data", params={"session_hash": body["session_hash"]})
        async with stream as lines:
            async for line in lines.aiter_lines():
                if "process_completed" in line:
                    assert json.loads(line.removeprefix("data: "))["success"], line
                    break
    return posted.status_code, time.monotonic() - begun


def opening(config: dict) -> dict:
    """What a page posts when it is opened, so that the server lists the models."""
    (models,) = [one["id"] for one in config["components"] if one["props"].get("elem_id") == "models"]
    (lists,) = [one for one in config["dependencies"] if one["outputs"] == [models]]
    values = {one["id"]: one["props"].get("value") for one in config["components"]}
    data = [values[one] for one in lists["inputs"]]
    return {"data": data, "fn_index": lists["id"], "session_hash": "other", "trigger_id": 1}


async def measured(address: str, count: int) -> dict[str, object]:
    async with client(address, GREEDY) as greedy, client(address, OTHER) as other:
        body = opening((await other.get("config")).json())
        before = [await page_event(other, body) for _ in range(BEFORE)]
        calls = [asyncio.create_task(call(greedy, seed)) for seed in range(count)]
        during = []
        for _ in range(DURING):
            during.append(await page_event(other, body))
            await asyncio.sleep(PAUSE)
        busy = sum(not one.done() for one in calls)
        statuses = Counter(one.result() for one in calls if one.done())
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    waits = sorted(seconds for _, seconds in during)
    return {
        "posts": count,
        "refused with 503": statuses[503],
        "unanswered when the measurement ended": busy,
        "page events of the other user": len(during),
        "of them not answered": sum(status != 200 for status, _ in (*before, *during)),
        "their wait before the posts, s (median)": round(statistics.median(seconds for _, seconds in before), 3),
        "their wait meanwhile, s (median)": round(statistics.median(waits), 3),
        "their longest wait, s": round(waits[-1], 3),
    }


def under_calls(count: int) -> dict[str, object]:
    """Start a page in a process of its own, and post `count` erasures at once."""
    with socket.socket() as free:
        free.bind((GREEDY, 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("fork").Process(target=serve, args=(port,), daemon=True)
    process.start()
    try:
        address, end = f"http://{GREEDY}:{port}/", time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{address}config", timeout=60)
                break
            except httpx.ConnectError:
                if time.monotonic() > end or not process.is_alive():
                    raise
                time.sleep(0.2)
        return asyncio.run(measured(address, count))
    finally:
        process.kill()
        process.join()
