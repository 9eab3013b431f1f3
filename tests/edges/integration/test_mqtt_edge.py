"""Any MQTT client is a caller of the mesh: it gives tasks, gets answers, follows what happens."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.messages import Caller, TaskRequest
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.keys import Keys
from tests.support.http_mesh import TRACE_ID, WRONG_TASKS, Api, http_mesh
from tests.support.mqtt_broker import (
    HELLO,
    SUBMIT,
    Client,
    Mosquitto,
    ask,
    client,
    mosquitto,
    payloads_of,
    publish,
)

OF_ADA = "mesh/default/clients/ada/submit"
GATE = {"agent_id": "gate", "task_id": "gate-2"}
pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_rr", "mosquitto_sub")


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mosquitto]:
    async with mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
async def api(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        yield api


@pytest.fixture
async def caller(api: Api, broker: Mosquitto) -> AsyncIterator[Client]:
    async with client(broker) as caller:
        yield caller


async def test_mosquitto_rr_gets_the_receipt(api: Api, broker: Mosquitto) -> None:
    receipt = await ask(broker, SUBMIT, HELLO)
    assert set(receipt) == {"task_id", "status", "dispatched_to", "score"}
    assert (receipt["dispatched_to"], receipt["score"]) == ("echo", 1.05)
    outcome = await api.mesh.get(Tasks).outcome(receipt["task_id"])
    assert outcome.text == "you said: hello"


async def test_mosquitto_rr_gets_the_answer_itself(api: Api, broker: Mosquitto) -> None:
    outcome = await ask(broker, SUBMIT, HELLO, reply="outcome")
    assert (outcome["success"], outcome["result"]["text"]) == (True, "you said: hello")


async def test_mosquitto_pub_needs_no_answer(api: Api, broker: Mosquitto, caller: Client) -> None:
    await caller.subscribe("mesh/default/tasks/mine-1/outcome")
    await publish(broker, SUBMIT, {**HELLO, "task_id": "mine-1"})
    assert (await caller.document())["result"]["text"] == "you said: hello"


async def test_the_answer_says_what_it_is_and_to_what(api: Api, caller: Client) -> None:
    receipt = await caller.request(SUBMIT, HELLO)
    assert receipt.properties.ContentType == "application/json"
    assert receipt.qos == 1
    refusal = await caller.request(SUBMIT, {"agent_id": "nobody"})
    assert refusal.properties.ContentType == "application/problem+json"


async def test_a_task_is_followed_at_its_own_topics(api: Api, caller: Client) -> None:
    await caller.subscribe("mesh/default/tasks/+/progress")
    await caller.subscribe("mesh/default/tasks/+/outcome")
    caller.publish(SUBMIT, {**HELLO, "task_id": "mine-2"})
    seen = await caller.documents(
        "mesh/default/tasks/mine-2/+", lambda found: bool(found) and "success" in found[-1]
    )
    *progress, outcome = seen
    kept = (await api.get("/tasks/mine-2/events"))["items"]
    assert progress == [event for event in kept if event["topic"] == "task-progress"]
    assert outcome == progress[-1]["payload"] == (await api.get("/tasks/mine-2"))["outcome"]


async def test_the_whole_bus_can_be_read_by_topic(api: Api, caller: Client) -> None:
    await caller.subscribe("mesh/default/events/#")
    caller.publish(SUBMIT, {**HELLO, "task_id": "mine-3"})
    found: dict[str, Any] = {}
    while "mesh/default/events/task-progress/task.succeeded" not in found:
        message = await caller.message()
        found[message.topic] = json.loads(message.payload)
    stations = {"task-progress/task.accepted", "tasks/echo/task.dispatched", "task-results/attempt.ended"}
    assert {f"mesh/default/events/{station}" for station in stations} <= found.keys()
    kept = {event["id"]: event for event in (await api.get("/events", task_id="mine-3"))["items"]}
    assert kept == {event["id"]: event for event in found.values() if event["task_id"] == "mine-3"}
    assert (await api.get("/events", event_type="edge.refused"))["items"] == [], "it hears itself"


# The same message twice


async def test_a_repeated_key_is_the_same_task(api: Api, broker: Mosquitto) -> None:
    first = await ask(broker, SUBMIT, HELLO, idempotency_key="order-7")
    second = await ask(broker, SUBMIT, HELLO, idempotency_key="order-7")
    assert second["task_id"] == first["task_id"]
    refused = await ask(broker, SUBMIT, {"agent_id": "echo"}, idempotency_key="order-7")
    assert (refused["status"], refused["code"]) == (409, "IdempotencyConflict")
    assert len((await api.get("/tasks"))["items"]) == 1


async def test_a_key_is_the_same_over_http(api: Api, broker: Mosquitto) -> None:
    receipt = await ask(broker, SUBMIT, HELLO, idempotency_key="order-8")
    _, again = await api.call("POST", "/tasks", json=HELLO, headers={"Idempotency-Key": "order-8"})
    assert again["task_id"] == receipt["task_id"]


async def test_two_messages_that_are_alike_are_two_tasks(api: Api, caller: Client) -> None:
    for _ in range(5):
        caller.publish(SUBMIT, HELLO, reply_to="replies/anonymous/alike", correlation=b"1")
    await caller.subscribe("mesh/default/tasks/+/outcome")
    for _ in range(5):
        caller.publish(SUBMIT, HELLO, reply_to="replies/anonymous/alike", correlation=b"1")
    outcomes = await caller.documents("mesh/default/tasks/+/outcome", lambda found: len(found) >= 5)
    assert len({outcome["task_id"] for outcome in outcomes}) == len(outcomes)
    assert len((await api.get("/tasks"))["items"]) == 10


async def test_who_asks_again_for_the_outcome_gets_it_at_once(api: Api, broker: Mosquitto) -> None:
    first = await ask(broker, SUBMIT, HELLO, idempotency_key="order-9", reply="outcome")
    assert await ask(broker, SUBMIT, HELLO, idempotency_key="order-9", reply="outcome") == first


async def test_everybody_who_asked_gets_the_outcome(api: Api, caller: Client) -> None:
    waiting = {f"replies/anonymous/asked/{n}" for n in range(3)}
    await caller.subscribe("replies/anonymous/asked/+")
    for topic in waiting:
        caller.publish(SUBMIT, {"agent_id": "gate", "task_id": "gate-1"}, reply_to=topic, reply="outcome")
    api.gate.set()
    while waiting:  # who asks just when it ends may get it twice
        waiting.discard((await caller.message()).topic)


async def test_a_task_belongs_to_the_trace_of_its_client(api: Api, broker: Mosquitto) -> None:
    receipt = await ask(broker, SUBMIT, HELLO, traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] == TRACE_ID
    receipt = await ask(broker, SUBMIT, HELLO, traceparent="nonsense")
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID


async def test_a_mesh_without_traces_passes_over_a_malformed_one(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url, trace=False) as api:
        receipt = await ask(broker, SUBMIT, HELLO, traceparent="nonsense")
        assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] is None


# A task under way


async def test_a_task_is_cancelled(api: Api, broker: Mosquitto, caller: Client) -> None:
    await caller.subscribe("mesh/default/tasks/+/outcome")
    receipt = await ask(broker, SUBMIT, {"agent_id": "gate"})
    view = await ask(broker, f"mesh/default/tasks/{receipt['task_id']}/cancel", "")
    assert view["task_id"] == receipt["task_id"]
    assert (await caller.document())["status"] == "cancelled"


@pytest.mark.parametrize(
    ("verb", "body", "status", "field"),
    [
        ("cancel", "", 404, "task_id"),
        ("answer", {"key": "k", "value": 1}, 404, "task_id"),
        ("answer", {"key": "k"}, 422, "value"),
        ("answer", "{", 400, "body"),
    ],
)
async def test_what_cannot_be_done_to_a_task_is_said(
    api: Api, broker: Mosquitto, verb: str, body: Any, status: int, field: str
) -> None:
    problem = await ask(broker, f"mesh/default/tasks/nothing/{verb}", body)
    assert (problem["status"], problem["field"]) == (status, field)


# What is refused


@pytest.mark.parametrize("body", [body for body, *_ in WRONG_TASKS])
async def test_a_wrong_task_gets_the_problem_that_it_gets_over_http(
    api: Api, caller: Client, body: str
) -> None:
    problem = json.loads((await caller.request(SUBMIT, body)).payload)
    assert problem == (await api.call("POST", "/tasks", data=body))[1]
    assert (await api.get("/tasks"))["items"] == []


@pytest.mark.parametrize(
    ("topic", "status", "code"),
    [
        ("mesh/acme/submit", 403, "ForeignTenant"),
        ("mesh/acme/tasks/t/cancel", 403, "ForeignTenant"),
        ("mesh/default/tasks/two words/cancel", 404, "NotFound"),
    ],
)
async def test_a_message_to_no_topic_of_the_callers_is_refused(
    api: Api, broker: Mosquitto, topic: str, status: int, code: str
) -> None:
    problem = await ask(broker, topic, HELLO)
    assert (problem["status"], problem["code"]) == (status, code)


async def test_an_unknown_reply_is_refused(api: Api, broker: Mosquitto) -> None:
    problem = await ask(broker, SUBMIT, HELLO, reply="everything")
    assert (problem["status"], problem["field"]) == (422, "reply")


async def test_who_names_no_response_topic_is_told_at_errors(
    api: Api, broker: Mosquitto, caller: Client
) -> None:
    await caller.subscribe("mesh/default/errors")
    await publish(broker, SUBMIT, "{nope")
    error = await caller.document()
    assert (error["topic"], error["problem"]["code"], error["count"]) == (SUBMIT, "MalformedJson", 1)
    [event] = (await api.get("/events", event_type="edge.refused"))["items"]
    assert (event["topic"], event["payload"]) == ("mesh-events", error)


@pytest.mark.parametrize(
    "topic",
    [
        "mesh/default/submit",
        "mesh",
        "mesh/acme/x",
        "$SYS/x",
        "$share/g/x",
        "replies/anonymous/+",
        "replies/anonymous/#",
        "replies/anonymous/",
        "mesh/default/clients/caller/replies/1",
        "replies",
        "bus/default/task-results",
        "elsewhere/anonymous/1",
        "x" * 513,
    ],
)
async def test_an_answer_goes_to_no_topic_where_it_could_do_harm(
    api: Api, caller: Client, topic: str
) -> None:
    await caller.subscribe("mesh/default/errors")
    caller.publish(SUBMIT, HELLO, reply_to=topic)
    assert (await caller.document())["problem"]["field"] == "response-topic"
    assert (await api.get("/tasks"))["items"] == []


async def test_a_named_client_is_answered_below_its_name_alone(api: Api, caller: Client) -> None:
    await caller.subscribe("mesh/default/errors")
    for topic in (
        "replies/anonymous/1",
        "mesh/default/clients/bob/replies/1",
        "mesh/default/clients/ada2/replies/1",
    ):
        caller.publish(OF_ADA, HELLO, reply_to=topic)
        assert (await caller.document())["problem"]["field"] == "response-topic"
    assert (await api.get("/tasks"))["items"] == []


async def test_a_client_is_not_sent_the_outcome_of_anothers_task(api: Api, broker: Mosquitto) -> None:
    await ask(broker, OF_ADA, GATE)
    topic, reply_to = "mesh/default/clients/bob/submit", "mesh/default/clients/bob/replies/1"
    problem = await ask(broker, topic, GATE, reply_to=reply_to, reply="outcome")
    assert (problem["status"], problem["code"]) == (409, "IdempotencyConflict")


async def test_a_user_named_anonymous_ends_no_tasks_of_others(api: Api, broker: Mosquitto) -> None:
    await ask(broker, OF_ADA, {"agent_id": "gate", "task_id": "of-ada"})
    cancel = "mesh/default/clients/anonymous/tasks/of-ada/cancel"
    refused = await ask(broker, cancel, {}, reply_to="replies/anonymous/1")
    assert (refused["status"], refused["field"]) == (404, "topic")


async def test_the_first_key_closes_the_topics_without_a_client(api: Api, broker: Mosquitto) -> None:
    await api.mesh.get(Keys).create("echo")
    assert (await ask(broker, SUBMIT, HELLO))["status"] == 401
    assert (await ask(broker, OF_ADA, HELLO, reply="outcome"))["success"]


async def test_a_named_client_cancels_and_answers_only_its_own(api: Api, broker: Mosquitto) -> None:
    await ask(broker, OF_ADA, {"agent_id": "gate", "task_id": "of-ada"})
    for verb, body in (("cancel", ""), ("answer", {"key": "k", "value": 1})):
        topic = f"mesh/default/clients/bob/tasks/of-ada/{verb}"
        problem = await ask(broker, topic, body)
        assert (problem["status"], problem["code"]) == (403, "Forbidden")
    cancelled = await ask(broker, "mesh/default/clients/ada/tasks/of-ada/cancel", "")
    assert cancelled["task_id"] == "of-ada"


async def test_no_client_displaces_the_reply_of_another(api: Api, caller: Client) -> None:
    await caller.subscribe("replies/#")
    await caller.subscribe("mesh/default/clients/ada/replies/#")
    caller.publish(OF_ADA, GATE, reply_to="mesh/default/clients/ada/replies/first", reply="outcome")
    await payloads_of(api.mesh, "task.started")
    for number in range(20):
        caller.publish(SUBMIT, GATE, reply_to=f"replies/anonymous/{number}", reply="outcome")
    caller.publish(SUBMIT, GATE, reply_to="replies/anonymous/receipt")
    await caller.document("replies/anonymous/receipt")
    api.gate.set()
    outcome = await caller.document("mesh/default/clients/ada/replies/first")
    assert outcome["task_id"] == GATE["task_id"]


async def test_correlation_data_has_its_limit(api: Api, caller: Client) -> None:
    await caller.subscribe("mesh/default/errors")
    caller.publish(SUBMIT, HELLO, reply_to="replies/anonymous/long", correlation=b"x" * 1025)
    assert (await caller.document())["problem"]["code"] == "TooLarge"


async def test_what_a_stranger_wrote_does_not_fill_the_log(api: Api, caller: Client) -> None:
    await caller.subscribe("mesh/default/errors")
    caller.publish(SUBMIT, {"x" * 100_000: 1, "y" * 100_000: 1})
    error = await caller.document()
    assert error["problem"]["status"] == 422
    assert len(json.dumps(error)) < 2000


async def test_a_flood_of_refusals_is_told_with_a_count(api: Api, caller: Client) -> None:
    await caller.subscribe("mesh/default/errors")
    for _ in range(200):
        caller.publish("mesh/acme/submit", "")
    errors = await caller.documents(
        "mesh/default/errors", lambda found: sum(error["count"] for error in found) == 200
    )
    assert len(errors) < 10


async def test_a_retained_message_is_not_asked_again(tmp_path: Path, broker: Mosquitto) -> None:
    submit = "once/default/submit"
    await publish(broker, submit, HELLO, "-r")
    async with http_mesh(tmp_path, mqtt_url=broker.url, mqtt_prefix="once") as api:
        await ask(broker, submit, HELLO)
        assert len((await api.get("/tasks"))["items"]) == 1


# Two meshes


async def test_two_meshes_on_one_broker_do_not_see_one_another(
    api: Api, tmp_path: Path, broker: Mosquitto, caller: Client
) -> None:
    async with http_mesh(tmp_path / "other", mqtt_url=broker.url, mqtt_prefix="home/mesh") as other:
        await caller.subscribe("mesh/default/tasks/#")
        receipt = await ask(broker, "home/mesh/default/submit", HELLO, reply="outcome")
        assert [task["task_id"] for task in (await other.get("/tasks"))["items"]] == [receipt["task_id"]]
        assert (await api.get("/tasks"))["items"] == []
    await ask(broker, SUBMIT, {**HELLO, "task_id": "mine-4"})
    assert (await caller.message()).topic == "mesh/default/tasks/mine-4/progress"


def test_nothing_of_mqtt_is_loaded_where_nobody_asked_for_it() -> None:
    code = (
        "import sys; from pathlib import Path; from meshwright.mesh.app import build_mesh;"
        "from meshwright.core.settings import load_settings;"
        "build_mesh(load_settings(Path()), agents=[]); print('paho' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


async def test_what_is_of_another_tenant_appears_below_that_tenant_alone(api: Api, caller: Client) -> None:
    acme = Caller(tenant_id="acme")
    await caller.subscribe("mesh/#")
    request = TaskRequest(agent_id="echo", task_id="shared", payload={"text": "of acme"})
    await api.mesh.get(Tasks).submit(request, acme)
    caller.publish(SUBMIT, {**HELLO, "task_id": "shared"})
    outcomes: dict[str, str] = {}
    seen: list[tuple[str, bytes]] = []
    while len(outcomes) < 2:
        message = await caller.message()
        seen.append((message.topic, message.payload))
        if message.topic.endswith("/tasks/shared/outcome"):
            outcomes[message.topic] = json.loads(message.payload)["result"]["text"]
    assert outcomes == {
        "mesh/acme/tasks/shared/outcome": "you said: of acme",
        "mesh/default/tasks/shared/outcome": "you said: hello",
    }
    assert {topic.split("/")[1] for topic, payload in seen if b"acme" in payload} == {"acme"}
    assert {"mesh/acme/tasks/shared/progress", "mesh/acme/events/task-progress/task.accepted"} <= {
        topic for topic, _ in seen
    }
