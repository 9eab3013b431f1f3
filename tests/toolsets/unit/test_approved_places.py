"""An approval holds for the system that it was given for: settings that name another one ask again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, TaskRequest, tool
from meshwright.core.settings.forms import Table
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from meshwright.toolsets.rest import RestPart, RestService, RestTools
from tests.support.interrupted_mesh import kept

SERVER = Path(__file__).parents[2] / "support" / "mcp_server.py"
REQUEST = TaskRequest(agent_id="pager", payload={"text": "Page them."})


class Pager(RestPart):
    """Pages people."""

    paged: ClassVar[list[str]] = []

    @tool(needs_approval=True, idempotent=True)
    async def page(self, team: str) -> str:
        """Page a team."""
        self.paged.append(self.server.service.url)
        return "paged"

    @tool(needs_approval=True, idempotent=True)
    async def hold(self) -> str:
        """Wait for a person."""
        return "held"


class PagerSettings(Table):
    """The pager."""

    server: RestService | None = None


class PagerTools(RestTools):
    """Pages people."""

    name, config_type = "pager", PagerSettings
    parts: ClassVar = {"server": Pager}


class Caller(Agent):
    """Pages people."""

    agent_id = "pager"
    capabilities = (Capability("paging"),)
    toolsets = (PagerTools,)
    prompt_text = "You page people."
    remembers = False


@pytest.fixture(autouse=True)
def nobody_was_paged() -> None:
    Pager.paged.clear()


def service(host: str) -> dict[str, Any]:
    return {"tools": {"pager": {"server": {"url": f"http://{host}"}}}}


async def wait_of(mesh: Mesh, task_id: str, *, other_than: str = "") -> Any:
    while not (
        waits := [one for one in (await mesh.get(Tasks).task(task_id)).waits if one.wait_id != other_than]
    ):
        await asyncio.sleep(0.01)
    return waits[0]


@pytest.mark.parametrize("host", ["staging.example.com", "live.example.com"])
async def test_a_yes_to_one_service_is_none_to_another(tmp_path: Path, host: str) -> None:
    async with kept(
        tmp_path, Caller, model=ScriptedModel(tool_call("page", team="a")), **service("staging.example.com")
    ) as mesh:
        task_id = (await mesh.get(Tasks).submit(REQUEST)).task_id
        asked = await wait_of(mesh, task_id)
        assert asked.subject["target"] == "http://staging.example.com"
    async with kept(tmp_path, Caller, model=ScriptedModel("Done."), **service(host)) as mesh:
        await mesh.get(Tasks).answer(task_id, asked.wait_id, {"approve": True})
        if host == "live.example.com":
            again = await wait_of(mesh, task_id, other_than=asked.wait_id)
            assert again.subject["target"] == "http://live.example.com"
            assert Pager.paged == []
            return
        assert (await mesh.get(Tasks).outcome(task_id)).success
        assert Pager.paged == ["http://staging.example.com"]


async def test_changed_arguments_for_one_service_are_asked_about_for_another(tmp_path: Path) -> None:
    model = ScriptedModel(tool_call("page", team="a"))
    async with kept(tmp_path, Caller, model=model, **service("staging.example.com")) as mesh:
        task_id = (await mesh.get(Tasks).submit(REQUEST)).task_id
        asked = await wait_of(mesh, task_id)
    async with kept(tmp_path, Caller, model=ScriptedModel("Done."), **service("live.example.com")) as mesh:
        value = {"approve": True, "arguments": {"team": "b"}}
        await mesh.get(Tasks).answer(task_id, asked.wait_id, value)
        again = await wait_of(mesh, task_id, other_than=asked.wait_id)
        assert (again.subject["target"], again.subject["arguments"]) == (
            "http://live.example.com",
            {"team": "b"},
        )
        assert Pager.paged == []


@pytest.mark.parametrize("host", ["staging.example.com", "live.example.com"])
async def test_one_yes_for_a_task_holds_for_the_service_that_it_was_given_for(
    tmp_path: Path, host: str
) -> None:
    once = {"approvals": {"rules": [{"tool": "page", "ask": "once"}]}}
    asks = ScriptedModel(tool_call("page", team="a"), tool_call("page", team="b"), tool_call("hold"))
    async with kept(tmp_path, Caller, model=asks, **service("staging.example.com"), **once) as mesh:
        task_id = (await mesh.get(Tasks).submit(REQUEST)).task_id
        await mesh.get(Tasks).answer(
            task_id, (asked := await wait_of(mesh, task_id)).wait_id, {"approve": True}
        )
        held = await wait_of(mesh, task_id, other_than=asked.wait_id)
        assert Pager.paged == ["http://staging.example.com"] * 2
    model = ScriptedModel(tool_call("page", team="c"), "Done.")
    async with kept(tmp_path, Caller, model=model, **service(host), **once) as mesh:
        await mesh.get(Tasks).answer(task_id, held.wait_id, {"approve": True})
        if host == "live.example.com":
            again = await wait_of(mesh, task_id, other_than=held.wait_id)
            await mesh.get(Tasks).answer(task_id, again.wait_id, {"approve": True})
            page = await wait_of(mesh, task_id, other_than=again.wait_id)
            assert (page.subject["tool"], page.subject["target"]) == ("page", "http://live.example.com")
            return
        assert (await mesh.get(Tasks).outcome(task_id)).success
        assert Pager.paged == ["http://staging.example.com"] * 3
