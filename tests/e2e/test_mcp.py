"""The same as tools of an MCP server, called by an MCP client; only where its packages are installed."""

import json

import pytest

from mace_studio.ui.api import NAMES
from tests.e2e.serving import app
from tests.loops import awaited

mcp = pytest.importorskip("mcp")
http = pytest.importorskip("mcp.client.streamable_http")

RECIPE = {"concepts": [{"phrase": "cat", "mapping": "forest"}], "preserve": ["dog"], "lora": {"steps": 0}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    output = tmp_path_factory.mktemp("mcp")
    with app("--mcp", "--output-dir", str(output), "--device", "cpu") as address:
        yield f"{address}gradio_api/mcp/"


def called(server, work):
    async def session():
        async with http.streamable_http_client(server) as (read, write, _), mcp.ClientSession(read, write) as opened:
            await opened.initialize()
            return await work(opened)

    return awaited(session())


def test_the_tools_are_the_endpoints_and_say_what_they_do(server):
    tools = {tool.name: tool for tool in called(server, lambda session: session.list_tools()).tools}
    assert set(tools) == set(NAMES)
    for tool in tools.values():
        assert tool.description.endswith(".")
        assert all(p.get("description") for p in tool.inputSchema["properties"].values()), tool.name
    assert set(tools["compare"].inputSchema["required"]) == {"name", "prompts"}


def test_an_erasure_by_a_tool(server):
    answer = called(server, lambda session: session.call_tool("erase", {"recipe": RECIPE}))
    assert not answer.isError
    told = json.loads(answer.content[0].text.replace("'", '"'))
    assert told["state"] == "done" and told["result"]["name"].startswith("cat-")
    listed = called(server, lambda session: session.call_tool("erasures", {}))
    assert told["result"]["name"] in listed.content[0].text


def test_a_refusal_reaches_the_assistant(server):
    answer = called(server, lambda session: session.call_tool("erase", {"recipe": {}}))
    assert answer.isError and "Add at least one concept" in answer.content[0].text
