"""Messages that come or go again: after a lost acknowledgement, a kill, or a broker that was full."""

import asyncio
from pathlib import Path

import pytest

from meshwright.core.events import Event
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import (
    DURABLE,
    HELLO,
    OUTCOMES,
    PLAIN,
    PUBACK,
    SECONDS,
    SUBMIT,
    Client,
    Mosquitto,
    Network,
    ask,
    client,
    mosquitto,
    network,
    payloads_of,
    publish,
    quota_exceeded,
)
from tests.support.running_mesh import mesh_up

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_rr")


# The same message again


async def test_a_new_message_under_an_old_number_is_a_new_task(tmp_path: Path) -> None:
    """A broker that has forgotten everything counts from 1 again."""
    async with mosquitto(tmp_path / "broker") as broker, http_mesh(tmp_path, mqtt_url=broker.url) as api:
        for number in (1, 2):
            await publish(broker, SUBMIT, HELLO)
            await payloads_of(api.mesh, "task.succeeded", number)
            await broker.kill()
            await broker.start()
            await payloads_of(api.mesh, "edge.connected", number + 1)
        assert len((await api.get("/tasks"))["items"]) == 2


async def test_a_message_whose_acknowledgement_was_lost_is_no_second_task(
    tmp_path: Path, broker: Mosquitto, link: Network
) -> None:
    async with http_mesh(tmp_path, mqtt_url=link.url) as api, client(broker, "replies/anonymous/#") as caller:
        link.loses_what_is_sent = True
        for _ in range(10):  # alike in all that their sender wrote
            caller.publish(SUBMIT, HELLO, reply_to="replies/anonymous/receipt", correlation=b"1")
        accepted = await payloads_of(api.mesh, "task.accepted", 10)
        await caller.silence(0.2)
        link.breaks()
        link.loses_what_is_sent = False
        receipts = await caller.documents("replies/anonymous/receipt", lambda found: len(found) == 10)
        assert len(accepted) == len({receipt["task_id"] for receipt in receipts}) == 10
        await ask(broker, SUBMIT, {**HELLO, "task_id": "last"}, reply="outcome")
        assert len((await api.get("/tasks"))["items"]) == 11


async def test_a_message_that_a_killed_mesh_did_not_acknowledge_is_no_second_task(
    tmp_path: Path, broker: Mosquitto, link: Network
) -> None:
    hello = {"agent_id": "simple-agent", "payload": {"text": "hello"}}
    up = (tmp_path / "data", "--mqtt", link.url)
    async with client(broker, "replies/anonymous/#") as caller:
        async with mesh_up(*up) as first:
            link.loses_what_is_sent = True
            for _ in range(3):
                caller.publish(SUBMIT, hello, reply_to="replies/anonymous/receipt")
            ids: set[str] = set()
            async for event in first.stream(event_type="task.accepted"):
                ids.add(event["task_id"])
                if len(ids) == 3:
                    break
            await caller.silence(0.2)
            await first.kill()
        link.loses_what_is_sent = False
        async with mesh_up(*up) as second:
            receipts = await caller.documents("replies/anonymous/receipt", lambda found: len(found) == 3)
            assert {receipt["task_id"] for receipt in receipts} == ids
            await second.outcome(await second.submit("hello"))
            assert len((await second.get("/tasks")).body["items"]) == 4


async def test_messages_are_one_task_each_through_kills_of_broker_and_connection(tmp_path: Path) -> None:
    """Mosquitto saves once a second: a killed one has acknowledgements no more that it has read."""
    saves = ("persistence true", "autosave_interval 1", "persistence_location {folder}/")
    async with (
        mosquitto(tmp_path / "broker", *PLAIN, *saves) as broker,
        network(broker) as link,
        http_mesh(tmp_path, mqtt_url=link.url) as api,
    ):
        async with asyncio.timeout(SECONDS):
            while not (tmp_path / "broker" / "mosquitto.db").exists():
                await asyncio.sleep(0.05)
        for part in range(3):
            for number in range(10):  # two of each
                await publish(broker, SUBMIT, {"agent_id": "echo", "payload": {"text": f"{number // 2}"}})
            await payloads_of(api.mesh, "task.accepted", 10 * part + 10)
            if part:
                link.breaks()
            else:
                await broker.kill()
                await payloads_of(api.mesh, "edge.disconnected")
                await broker.start()
            await payloads_of(api.mesh, "edge.connected", part + 2)
        await ask(broker, SUBMIT, {**HELLO, "task_id": "last"}, reply="outcome")
        assert len((await api.get("/tasks", limit=100))["items"]) == 31


async def test_an_outcome_that_the_broker_has_is_not_sent_again_after_a_kill(
    tmp_path: Path, broker: Mosquitto
) -> None:
    up = (tmp_path / "data", "--mqtt", broker.url)
    async with client(broker, OUTCOMES) as caller:
        async with mesh_up(*up) as first:
            before = await first.submit("hello")
            assert (await caller.document())["task_id"] == before
            await caller.silence(0.5)
            await first.kill()
        async with mesh_up(*up) as second:
            after = await second.submit("hello")
            assert (await caller.document())["task_id"] == after


# Full


async def test_an_outcome_is_sent_until_a_full_broker_takes_it(
    tmp_path: Path, broker: Mosquitto, link: Network
) -> None:
    async with http_mesh(tmp_path, mqtt_url=link.url) as api, client(broker, OUTCOMES) as caller:
        link.forged[PUBACK] = quota_exceeded
        await api.finished(agent_id="echo", task_id="mine")
        for _ in range(2):  # the broker has it, and says that it has not
            assert (await caller.document())["task_id"] == "mine"
        link.forged.clear()
        await api.finished(agent_id="echo", task_id="next")
        await caller.documents(OUTCOMES, lambda found: bool(found) and found[-1]["task_id"] == "next")


async def test_what_is_too_large_for_the_broker_is_said_and_passed_by(tmp_path: Path) -> None:
    limit = "max_packet_size 20000"
    async with (
        mosquitto(tmp_path / "broker", *PLAIN, limit) as broker,
        http_mesh(tmp_path, mqtt_url=broker.url) as api,
        client(broker, OUTCOMES) as caller,
    ):
        await api.finished(agent_id="echo", task_id="large", payload={"text": "x" * 30_000})
        await api.finished(agent_id="echo", task_id="small")
        assert (await caller.document())["task_id"] == "small"
        dropped = await payloads_of(api.mesh, "edge.dropped")
        assert dropped[0]["reason"] == "Packet too large"
        assert len(await payloads_of(api.mesh, "edge.connected")) == 1


async def test_events_that_nobody_takes_make_room_for_newer_ones(tmp_path: Path) -> None:
    keeps_all = ("queue_qos0_messages true", "max_queued_messages 0")
    async with mosquitto(tmp_path / "broker", *PLAIN, *DURABLE, *keeps_all) as broker:
        caller = Client(broker, "caller")
        await caller.connect(session_seconds=600)
        await caller.subscribe("mesh/default/events/test/#")
        async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
            await broker.stop()
            await payloads_of(api.mesh, "edge.disconnected")
            for n in range(6000):
                now = api.mesh.runtime.clock.now()
                api.mesh.runtime.broadcast(
                    Event(id=f"test/{n}", event_type="it.happened", topic="test", time=now, payload=n)
                )
            await broker.start()
            events = await caller.documents("#", lambda found: bool(found) and found[-1]["payload"] == 5999)
        await caller.close()
        first = events[0]["payload"]
        assert [event["payload"] for event in events] == list(range(first, 6000))
        assert 6000 - 4096 <= first <= 6000 - 4096 + 10  # beside the events of the mesh itself
        async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
            dropped = await payloads_of(api.mesh, "edge.dropped", 2)
        assert {each["what"] for each in dropped} == {"events"}
        assert first <= sum(each["count"] for each in dropped) <= first + 10
