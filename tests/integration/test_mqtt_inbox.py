"""The broker keeps what waits for people, and clients that are named answer it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Approval, Capability, Run
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import Client, Mosquitto, ask, client

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_rr")
INBOX = "mesh/default/inbox"


class Asker(Agent):
    """Asks whoever its task names."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        decision = await run.ask_person(
            run.task.text, shape=Approval, may_answer=run.task.payload.get("of", ())
        )
        return "yes" if decision.approve else f"no: {decision.reason}"


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
        body = {"key": question["wait_id"], "value": {"approve": False, "reason": "not now"}}
        assert (await ask(broker, answer_topic(question), body))["task_id"] == task_id
        await listed(looker)
        problem = await ask(broker, answer_topic(question), body)
        assert (problem["status"], problem["code"]) == (409, "Conflict")
    async with client(broker, f"mesh/default/tasks/{task_id}/outcome") as looker:
        view = await api.get(f"/tasks/{task_id}")
        text = (view["outcome"] or await looker.document())["result"]["text"]
    assert text == "no: not now"


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
