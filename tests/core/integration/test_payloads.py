"""Payloads reach the provider from every edge, and an empty reply is no answer."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.fake_provider import FakeProvider
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import SUBMIT, ask, mosquitto
from tests.support.running_mesh import mesh

PAYLOAD = {"text": "Review this.", "diff": "-x = 1\n+x = 2", "options": {"strict": True}}
ASKED = 'Review this.\n\ndiff:\n-x = 1\n+x = 2\n\noptions:\n{"strict": true}'


class Reviewer(Agent):
    """Reviews what it is given."""

    agent_id = "reviewer"
    capabilities = (Capability("reviewing"),)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


def told(fake: FakeProvider) -> str:
    [call] = fake.calls
    [*_, last] = call.body["messages"]
    assert last["role"] == "user"
    return last["content"]


async def test_a_payload_over_http_reaches_the_model(tmp_path: Path, fake: FakeProvider) -> None:
    async with http_mesh(tmp_path, Reviewer, model="http", litellm_base_url=fake.url) as api:
        await api.finished(agent_id="reviewer", payload=PAYLOAD)
    assert told(fake) == ASKED


async def test_the_text_may_stand_beside_the_payload(tmp_path: Path, fake: FakeProvider) -> None:
    async with http_mesh(tmp_path, Reviewer, model="http", litellm_base_url=fake.url) as api:
        beside = {name: value for name, value in PAYLOAD.items() if name != "text"}
        request = {"agent_id": "reviewer", "text": "Review this.", "payload": beside}
        headers = {"Idempotency-Key": "review-7"}
        status, receipt = await api.call("POST", "/tasks", json=request, headers=headers)
        same = {"agent_id": "reviewer", "payload": {**beside, "text": "Review this."}}
        again = await api.call("POST", "/tasks", json=same, headers=headers)
        await api.mesh.get(Tasks).outcome(receipt["task_id"])
        assert (status, again[1]["task_id"]) == (202, receipt["task_id"])
        refused = await api.call("POST", "/tasks", json={**request, "payload": {"text": "Or this."}})
        assert refused[0] == 422 and "text and payload.text are both given" in refused[1]["detail"]
    assert told(fake) == ASKED


async def test_mesh_ask_fails_where_the_answer_has_another_shape(tmp_path: Path, fake: FakeProvider) -> None:
    fake.replies += [{"content": '{"text": "Page 1."}'}] * 4  # the second asks for two corrections
    async with http_mesh(tmp_path, Reviewer, model="http", litellm_base_url=fake.url) as api:
        asked = ("ask", "reviewer", "Where?", "--url", api.url, "--shape")
        fits = await mesh(*asked, '{"required": ["text"]}')
        other = await mesh(*asked, '{"required": ["page"]}')
    assert (fits.status, fits.out) == (0, "Page 1.\n")
    assert other.status == 1 and "the model did not answer as wanted, even" in other.err
    assert "page is required" in other.err
    assert "response_format" in fake.calls[0].body


async def test_a_payload_of_mesh_submit_reaches_the_model(tmp_path: Path, fake: FakeProvider) -> None:
    async with http_mesh(tmp_path, Reviewer, model="http", litellm_base_url=fake.url) as api:
        beside = json.dumps({name: value for name, value in PAYLOAD.items() if name != "text"})
        await submitted(api, "reviewer", "Review this.", "--payload", beside)
    assert told(fake) == ASKED


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_of_reasoning_alone_is_asked_for_again(
    tmp_path: Path, fake: FakeProvider, stream: bool
) -> None:
    thought = {"content": None, "reasoning_content": "Let me think."}
    fake.replies += [thought, {"content": "Page 1."}]
    settings = {"model": "http", "litellm_base_url": fake.url, "stream": stream}
    async with http_mesh(tmp_path, Reviewer, **settings) as api:
        task_id = await api.finished(agent_id="reviewer", payload={"text": "Where?"})
        assert (await api.get(f"/tasks/{task_id}"))["outcome"]["result"] == {"text": "Page 1."}
    assert "Your reply was empty" in fake.calls[-1].body["messages"][-1]["content"]


@pytest.mark.needs("mosquitto", "mosquitto_rr")
async def test_a_payload_over_mqtt_reaches_the_model(tmp_path: Path, fake: FakeProvider) -> None:
    async with (
        mosquitto(tmp_path) as broker,
        http_mesh(tmp_path, Reviewer, model="http", litellm_base_url=fake.url, mqtt_url=broker.url),
    ):
        request = {"agent_id": "reviewer", "payload": PAYLOAD}
        assert (await ask(broker, SUBMIT, request, reply="outcome"))["success"]
    assert told(fake) == ASKED


async def submitted(api: Api, *arguments: str) -> None:
    """Give a task by the command line, and wait for its end."""
    done = await mesh("submit", *arguments, "--url", api.url)
    assert done.status == 0, done.err
    [task] = (await api.get("/tasks"))["items"]
    await api.mesh.get(Tasks).outcome(task["task_id"])
