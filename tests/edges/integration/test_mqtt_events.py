"""Programs publish tasks as CloudEvents over MQTT, and get receipts and outcomes as CloudEvents."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import HELLO, Mosquitto, client, payloads_of, publish
from tests.support.running_mesh import mesh_up

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_sub")
TASKS, REPLIES = "mesh/default/tasks", "replies/anonymous"
RECEIPTS, RESULTS = f"{REPLIES}/task-receipts", f"{REPLIES}/task-results"


def event(data: Any = HELLO, event_id: str = "42", **attributes: Any) -> dict[str, Any]:
    known = {"specversion": "1.0", "id": event_id, "source": "/orders", "type": "shop.order"}
    return {**known, "data": data, **attributes}


async def test_a_cloud_event_gets_its_receipt_and_its_outcome(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api, client(broker, f"{REPLIES}/#") as caller:
        for _ in range(2):  # the same event twice is the same task, with the same answers
            await publish(broker, TASKS, event())
            found = {}
            while len(found) < 2:
                message = await caller.message()
                assert message.properties is not None
                assert message.properties.ContentType == "application/cloudevents+json"
                found[message.topic] = json.loads(message.payload)
            receipt, outcome = found[RECEIPTS], found[RESULTS]
            assert (receipt["type"], receipt["data"]["dispatched_to"]) == ("meshwright.task.accepted", "echo")
            assert outcome["data"]["result"]["text"] == "you said: hello"
            assert outcome["id"] == f"{outcome['subject']}/ended"
            for answer in (receipt, outcome):
                assert (answer["requestid"], answer["requestsource"]) == ("42", "/orders")
                assert answer["specversion"] == "1.0" and answer["data"]["task_id"] == answer["subject"]
        assert len((await api.get("/tasks"))["items"]) == 1
        await publish(broker, TASKS, event({**HELLO, "priority": 9}))
        refused = await caller.document(RECEIPTS)
        assert (refused["data"]["code"], refused["requestid"]) == ("IdempotencyConflict", "42")


@pytest.mark.parametrize(
    ("body", "field", "requestid"),
    [
        ("no json", "body", None),
        (HELLO, "specversion", None),
        (event(specversion="0.3"), "specversion", "42"),
        (event(event_id=""), "id", ""),
        (event({"agent_id": "echo", "tenant_id": "acme"}), "tenant_id", "42"),
        (event({"payload": {}}), "capability", "42"),
        (event([1]), "body", "42"),
        (event(None, data_base64="%"), "data_base64", "42"),
    ],
    ids=[
        *("no JSON", "no event", "another version", "no id", "a foreign tenant", "no agent"),
        *("a list", "no base64"),
    ],
)
async def test_a_wrong_event_is_answered_with_its_field(
    tmp_path: Path, broker: Mosquitto, body: Any, field: str, requestid: str | None
) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api, client(broker, f"{REPLIES}/#") as caller:
        await publish(broker, TASKS, body)
        refused = await caller.document(RECEIPTS)
        assert (refused["type"], refused["data"]["field"]) == ("meshwright.task.refused", field)
        assert refused.get("requestid") == requestid
        assert refused["datacontenttype"] == "application/problem+json"
        [told] = await payloads_of(api.mesh, "edge.refused")
        assert told["topic"] == TASKS and told["answered"]


async def test_an_event_of_a_user_is_answered_below_its_own_replies(
    tmp_path: Path, broker: Mosquitto
) -> None:
    own = "mesh/acme/clients/ada"
    clients = [{"user": "ada", "tenant": "acme"}, {"user": "vera", "tenant": "acme", "roles": ["viewer"]}]
    settings = {"mqtt": {"url": broker.url, "clients": clients}}
    async with http_mesh(tmp_path, **settings) as api, client(broker, "mesh/acme/clients/#") as caller:
        await publish(broker, f"{own}/tasks", event())
        outcome = await caller.document(f"{own}/replies/task-results")
        shown = await api.mesh.get(Tasks).task(outcome["subject"], "acme")
        assert (shown.requested_by, outcome["source"]) == ("ada", "/meshwright/acme")
        for sender in ("mesh/acme/clients/vera", "mesh/acme/clients/eve"):
            await publish(broker, f"{sender}/tasks", event(event_id="43"))
            refused = await caller.document(f"{sender}/replies/task-receipts")
            assert refused["data"]["status"] in (401, 403)
        assert len((await api.mesh.log.tasks(tenant_id="acme")).items) == 1


async def test_an_accepted_event_gets_its_outcome_after_a_kill(tmp_path: Path, broker: Mosquitto) -> None:
    up = (tmp_path / "data", "--mqtt", broker.url)
    hello = {"agent_id": "simple-agent", "payload": {"text": "hello"}}
    async with client(broker, f"{REPLIES}/#") as caller:
        async with mesh_up(*up) as first:
            for number in range(20):
                caller.publish(TASKS, event(hello, str(number)))
            await caller.document(RECEIPTS)
            await first.kill()
        ended: set[str] = set()
        async with mesh_up(*up) as second:
            while len(ended) < 20:
                outcome = await caller.document(RESULTS)
                assert outcome["id"] == f"{outcome['subject']}/ended"
                ended.add(outcome["requestid"])
            assert len((await second.get("/tasks")).body["items"]) == 20
