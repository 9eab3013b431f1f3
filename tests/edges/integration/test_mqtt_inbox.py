"""The broker keeps what waits for people, and clients that are named answer it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Approval, Capability, Run, tool
from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.parts.mcp.consent import Consents, ToolDocument
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import Client, Mosquitto, ask, client

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_rr")
INBOX = "mesh/default/inbox"
TOKEN = "the-admin-token-of-this-test-is-long"


class Asker(Agent):
    """Asks whoever its task names."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        decision = await run.ask_person(
            run.task.text, shape=Approval, may_answer=run.task.payload.get("of", ())
        )
        return "yes" if decision.approve else f"no: {decision.reason}"


class Opener(Agent):
    """Opens a door by a tool that needs an approval."""

    agent_id = "opener"
    capabilities = (Capability("opening"),)

    @tool(needs_approval=True)
    async def open(self, door: str) -> str:
        """Open a door."""
        return f"{door} is open"

    async def run(self, run: Run) -> str:
        return str(await run.call("open", door="a"))


@pytest.fixture
async def api(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Asker, mqtt_url=broker.url) as api:
        yield api


async def asked(broker: Mosquitto, text: str, **payload: Any) -> str:
    request = {"agent_id": "asker", "payload": {"text": text, **payload}}
    return (await ask(broker, "mesh/default/submit", request))["task_id"]


async def listed(looker: Client, *questions: str) -> list[dict[str, Any]]:
    """Wait until the inbox holds these questions and no other."""

    def enough(found: list[Any]) -> bool:
        return bool(found) and [item["question"] for item in found[-1]["items"]] == [*questions]

    return (await looker.documents(INBOX, enough))[-1]["items"]


async def claimed(looker: Client) -> list[dict[str, Any]]:
    """Wait until each question of the inbox has an owner."""

    def enough(found: list[Any]) -> bool:
        return bool(found) and all(item.get("claimed_by") for item in found[-1]["items"])

    return (await looker.documents(INBOX, enough))[-1]["items"]


def answer_topic(question: dict[str, Any], client_id: str = "") -> str:
    named = f"clients/{client_id}/" if client_id else ""
    return f"mesh/default/{named}tasks/{question['task_id']}/answer"


async def test_the_inbox_is_kept_and_a_question_leaves_it_when_answered(api: Api, broker: Mosquitto) -> None:
    task_id = await asked(broker, "Deploy?")
    async with client(broker, INBOX) as looker:
        [question] = await listed(looker, "Deploy?")
        assert question["answer_schema"]["required"] == ["approve"]
        for value, field in (("yes", "value"), ({"approve": "yes"}, "value.approve")):
            body = {"key": question["wait_id"], "value": value}
            problem = await ask(broker, answer_topic(question), body)
            assert (problem["status"], problem["field"]) == (422, field)
        assert (await api.call("POST", f"/inbox/{question['id']}/claim"))[0] == 200
        assert [item["claimed_by"] for item in await claimed(looker)] == ["anonymous"]
        body = {"key": question["wait_id"], "value": {"approve": False, "reason": "not now"}}
        body["anyway"] = True
        assert (await ask(broker, answer_topic(question), body))["task_id"] == task_id
        await listed(looker)
        problem = await ask(broker, answer_topic(question), body)
        assert (problem["status"], problem["code"]) == (409, "Conflict")
    async with client(broker, f"mesh/default/tasks/{task_id}/outcome") as looker:
        view = await api.get(f"/tasks/{task_id}")
        text = (view["outcome"] or await looker.document())["result"]["text"]
    assert text == "no: not now"


async def test_a_call_is_approved_with_other_arguments(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, Opener, mqtt_url=broker.url) as api, client(broker, INBOX) as looker:
        request = {"agent_id": "opener", "payload": {"text": "Open it."}}
        task_id = (await ask(broker, "mesh/default/submit", request))["task_id"]
        [question] = await listed(
            looker, 'opener wants to run open(door="a"), to do this task: "Open it". May it?'
        )
        value = {"approve": True, "arguments": {"door": 7}}
        problem = await ask(broker, answer_topic(question), {"key": question["wait_id"], "value": value})
        assert (problem["status"], problem["field"]) == (422, "value.arguments.door")
        value = {"approve": True, "arguments": {"door": "b"}}
        await ask(broker, answer_topic(question), {"key": question["wait_id"], "value": value})
        assert (await api.client.outcome(task_id)).text == "b is open"


async def test_inbox_has_what_no_task_waits_for(tmp_path: Path, broker: Mosquitto) -> None:
    admin = {"Authorization": f"Bearer {TOKEN}"}
    table = {"own": {"command": "never-run", "tools": ["*"]}}
    memory = MemoryItem(memory_id="m-1", scope="global", text="Ask me.", status="quarantined", trust=0)
    async with http_mesh(tmp_path, Asker, mqtt_url=broker.url, mcp=table, admin_token=TOKEN) as api:
        await api.mesh.get(MemoryStore).remember(memory)
        async with client(broker, INBOX) as looker:
            for text in ("It looks.", "It looks, and sends."):
                look = ToolDocument.describe("look", json.dumps({"description": text}))
                await api.mesh.get(Consents).offer("own", ["*"], [look])
            tool = "The tool look of the MCP server own has changed. May agents read this and call it?"
            asked, noted = await listed(looker, tool, 'May agents recall this? "Ask me."')
            assert (noted["source"], asked["source"], asked["task_id"]) == ("memory", "mcp", "")
            for item in (noted, asked):
                body = {"id": item["id"], "value": {"approve": True}}
                status, answered = await api.call("POST", "/inbox/answer", json=body, headers=admin)
                assert (status, answered["items"][0]["refused"]) == (200, None)
            await listed(looker)


async def test_a_client_answers_what_names_it_and_nothing_else(api: Api, broker: Mosquitto) -> None:
    async with client(broker, INBOX) as looker:
        await asked(broker, "Ada?", of=["ada"])
        [question] = await listed(looker, "Ada?")
        body = {"key": question["wait_id"], "value": {"approve": True}}
        refused = await ask(broker, answer_topic(question), body)
        assert (refused["status"], refused["code"]) == (403, "Forbidden")
        for name, status in (("bob", 403), ("ada", None)):
            done = await ask(broker, answer_topic(question, name), body)
            assert (done["status"] if status else None) == status
        await listed(looker)
    [ended] = (await api.get("/inbox?ended=true"))["items"]
    assert (ended["status"], ended["answered_by"]) == ("answered", "ada")
