"""A question of an MCP server outlives kill -9 of the mesh, and is answered while none runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parts.integration.test_mcp_http import Shop
from tests.support.fake_openai import FakeOpenAI
from tests.support.fake_provider import tool_call
from tests.support.running_mesh import mesh, mesh_up

AGENT = """
from meshwright import Agent, Capability


class Caller(Agent):
    agent_id = "caller"
    capabilities = (Capability("calling"),)
    prompt_text = "You call tools."
    remembers = False
    toolsets = ("mcp.shop",)
"""


def is_waiting(event: dict[str, Any]) -> bool:
    return event["event_type"] == "task.waiting"


async def test_question_of_a_server_outlives_kill_9_and_its_call_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/caller.py").write_text(AGENT)
    shop, data = Shop(), tmp_path / "data"
    where = ("--data", str(data))
    async with FakeOpenAI() as provider, shop.serving():
        setup = {
            "MESH_AGENTS__DIR": str(tmp_path / "actors"),
            "LITELLM_BASE_URL": provider.url,
            "MESH_MCP__SHOP__URL": shop.url,
            "MESH_MCP__SHOP__TOOLS": '["order"]',
            "MESH_MCP__SHOP__APPROVE": "never",
        }
        provider.replies += [tool_call("shop_order", "{}"), {"content": "it is ordered"}]
        async with mesh_up(data, **setup) as first:
            task_id = await first.submit("Order one", agent_id="caller", capability="calling")
            await first.until(is_waiting)
            await first.kill()
        async with mesh_up(data, **setup) as second:  # and once more, while nothing but the wait is left
            shown = await mesh("inbox", "--url", second.url)
            assert "The MCP server shop asks, for a call of shop_order: Which size?" in shown.out, shown
            await second.kill()
        short = shown.out.splitlines()[1].split()[0]
        done = await mesh("answer", short, '{"size": "L"}', *where, **setup)
        assert done.status == 0, done
        async with mesh_up(data, **setup) as third:
            assert (await third.outcome(task_id))["result"]["text"] == "it is ordered"
    answer = {"q": {"action": "accept", "content": {"size": "L"}}}
    assert shop.calls == [("order", {}, None), ("order", answer, "order-7")]
