"""The broker is away, comes back, or does not want us: nothing accepted is lost, and all is said."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.clock import Backoff
from meshwright.core.errors import MailboxFull, StoreUnavailable
from meshwright.core.messages import Receipt
from meshwright.edges.broker import connection, dialer
from meshwright.edges.mqtt import edge
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import (
    HELLO,
    OUTCOMES,
    PLAIN,
    SECONDS,
    SUBACK,
    SUBMIT,
    Client,
    Mosquitto,
    Network,
    ask,
    client,
    mosquitto,
    not_authorized,
    payloads_of,
    publish,
)

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_rr")


# Away


async def test_a_mesh_starts_without_its_broker_and_comes_to_it_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: asyncio.Queue[None] = asyncio.Queue()

    class CountedPauses(Backoff):
        def next(self) -> float:
            tries.put_nowait(None)
            return super().next()

    monkeypatch.setattr(edge, "Backoff", CountedPauses)
    async with mosquitto(tmp_path / "broker") as broker:
        await broker.stop()
        async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
            await api.finished(agent_id="echo")
            [away] = await payloads_of(api.mesh, "edge.disconnected")
            assert away == {"broker": broker.url, "reason": "cannot be reached: Connection refused"}
            for _ in range(3):
                await tries.get()
            assert [each.getMessage() for each in caplog.records] == [
                f"{broker.url}: cannot be reached: Connection refused; trying on"
            ]
            await broker.start()
            await payloads_of(api.mesh, "edge.connected")
            assert (await ask(broker, SUBMIT, HELLO, reply="outcome"))["success"]
    assert caplog.records[-1].getMessage() == f"{broker.url}: connected again"


@pytest.fixture
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge waits for ever for a broker's answers: what waits for one of them never ends."""
    monkeypatch.setattr(connection, "_ANSWER_SECONDS", 1e6)
    monkeypatch.setattr(dialer, "_DIAL_SECONDS", 1e6)


@pytest.mark.usefixtures("endless_patience")
async def test_a_broker_that_does_not_answer_holds_up_neither_start_nor_stop(tmp_path: Path) -> None:
    was_dialled, hung_up = asyncio.Event(), asyncio.Event()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        was_dialled.set()
        await reader.read()
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(240), http_mesh(tmp_path, mqtt_url=url) as api:
        await was_dialled.wait()
        task_id = await api.finished(agent_id="echo")
        assert (await api.get(f"/tasks/{task_id}"))["status"] == "succeeded"
        assert not hung_up.is_set()
    async with asyncio.timeout(240):
        await hung_up.wait()
    server.close()


@pytest.mark.usefixtures("endless_patience")
async def test_a_stop_is_not_held_up_by_a_broker_that_fell_silent(
    tmp_path: Path, link: Network, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(240), http_mesh(tmp_path, mqtt_url=link.url) as api:
        link.loses_what_is_sent = True
        await api.finished(agent_id="echo")
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


async def test_a_broker_that_is_killed_in_the_middle_loses_nothing_that_was_accepted(
    tmp_path: Path, broker: Mosquitto
) -> None:
    caller = Client(broker, "caller")
    await caller.connect(session_seconds=600)
    await caller.subscribe("replies/anonymous/#")
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        asked = {f"task-{n}" for n in range(40)}
        for task_id in asked:
            task = {"agent_id": "gate", "task_id": task_id}
            caller.publish(SUBMIT, task, reply_to="replies/anonymous/outcome", reply="outcome")
        caller.publish(SUBMIT, {"agent_id": "gate", "task_id": "last"}, reply_to="replies/anonymous/receipt")
        await caller.document("replies/anonymous/receipt")
        while len((await api.get("/tasks", limit=100))["items"]) < len(asked) + 1:
            await asyncio.sleep(0.01)
        await broker.kill()
        api.gate.set()
        for task_id in asked:
            await api.mesh.get(Tasks).outcome(task_id)
        await payloads_of(api.mesh, "edge.disconnected")
        await broker.start()
        outcomes = await caller.documents(
            "replies/anonymous/outcome", lambda found: {each["task_id"] for each in found} == asked
        )
        assert {each["result"]["text"] for each in outcomes} == {"opened"}
        assert len(await payloads_of(api.mesh, "task.accepted", len(asked) + 1)) == len(asked) + 1
    await caller.close()


async def test_an_outcome_of_while_both_were_away_is_sent_when_both_are_back(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with (
        client(broker, client_id="caller") as caller,
        http_mesh(tmp_path, mqtt_url=broker.url) as first,
    ):
        task = {"agent_id": "gate", "task_id": "mine"}
        asked = {"reply_to": "replies/anonymous/outcome", "correlation": b"\x00\xff"}
        caller.publish(SUBMIT, task, reply="outcome", **asked)
        await caller.request(SUBMIT, task)
        await broker.stop()
        first.gate.set()
        await first.mesh.get(Tasks).outcome("mine")
    await broker.start()
    async with (
        client(broker, OUTCOMES, "replies/anonymous/outcome") as caller,
        http_mesh(tmp_path, mqtt_url=broker.url),
    ):
        messages = {message.topic: message for message in [await caller.message(), await caller.message()]}
        assert set(messages) == {"mesh/default/tasks/mine/outcome", "replies/anonymous/outcome"}
        reply = messages["replies/anonymous/outcome"]
        assert reply.properties is not None and reply.properties.CorrelationData == b"\x00\xff"
        assert json.loads(reply.payload)["result"]["text"] == "opened"
    async with (
        client(broker, OUTCOMES, "replies/anonymous/outcome") as caller,
        http_mesh(tmp_path, mqtt_url=broker.url),
    ):
        await ask(broker, SUBMIT, {**HELLO, "task_id": "next"})
        assert (await caller.document(OUTCOMES))["task_id"] == "next"


async def test_what_was_published_while_the_mesh_was_away_is_done_when_it_is_back(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url):
        pass
    await publish(broker, SUBMIT, HELLO)
    async with client(broker, OUTCOMES) as caller, http_mesh(tmp_path, mqtt_url=broker.url):
        assert (await caller.document())["result"]["text"] == "you said: hello"


async def test_a_message_is_the_brokers_until_its_task_is_durable(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: object, **options: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        monkeypatch.setattr(api.mesh.get(Tasks), "submit", never)
        await publish(broker, SUBMIT, HELLO)
        await begun.wait()
    async with client(broker, OUTCOMES) as caller, http_mesh(tmp_path, mqtt_url=broker.url):
        assert (await caller.document())["result"]["text"] == "you said: hello"


async def test_what_cannot_be_taken_now_is_taken_when_it_can(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        submit, busy = api.mesh.get(Tasks).submit, [MailboxFull("full"), StoreUnavailable("away")]

        async def at_last(*args: Any, **options: Any) -> Receipt:
            if busy:
                raise busy.pop()
            return await submit(*args, **options)

        monkeypatch.setattr(api.mesh.get(Tasks), "submit", at_last)
        assert (await ask(broker, SUBMIT, HELLO))["status"] == "dispatched"
        assert not busy


async def test_a_fault_of_ours_is_said_and_the_next_message_served(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object, **options: object) -> None:
        raise RuntimeError("a secret")

    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        with monkeypatch.context() as patch:
            patch.setattr(api.mesh.get(Tasks), "submit", broken)
            problem = await ask(broker, SUBMIT, HELLO)
        assert (problem["status"], problem["detail"]) == (500, "An unexpected RuntimeError")
        assert (await ask(broker, SUBMIT, HELLO))["status"] == "dispatched"


# Not wanted


async def test_a_broker_that_refuses_us_says_what_to_do_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        mosquitto(tmp_path / "broker", "allow_anonymous false") as broker,
        http_mesh(tmp_path, mqtt_url=broker.url) as api,
    ):
        [away] = await payloads_of(api.mesh, "edge.disconnected")
        assert away["reason"].startswith("it says: not authorized. Check username and password of [mqtt]")
        await broker.stop()
        broker.lines = PLAIN
        await broker.start()
        await payloads_of(api.mesh, "edge.connected")
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.getMessage().split(":")[-1].strip() for each in warnings][-1] == "connected again"


async def test_two_meshes_under_one_prefix_are_told(tmp_path: Path, broker: Mosquitto) -> None:
    async def in_the_end(mesh: Mesh) -> None:
        async for event in mesh.log.tail(EventFilter(after_seq=0, event_type="edge.disconnected")):
            if event.payload["reason"].endswith("Give each mesh on a broker an mqtt.prefix of its own"):
                return

    async with (
        http_mesh(tmp_path / "one", mqtt_url=broker.url) as one,
        http_mesh(tmp_path / "two", mqtt_url=broker.url) as two,
    ):
        told_by = [asyncio.create_task(in_the_end(each.mesh)) for each in (one, two)]
        done, waiting = await asyncio.wait(told_by, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        assert done
        for each in waiting:
            each.cancel()


async def test_a_mesh_that_may_not_subscribe_says_so_and_asks_again(
    tmp_path: Path, broker: Mosquitto, link: Network
) -> None:
    link.forged[SUBACK] = not_authorized
    async with http_mesh(tmp_path, mqtt_url=link.url) as api:
        [away] = await payloads_of(api.mesh, "edge.disconnected")
        assert away["reason"].startswith(
            "it does not let us subscribe to mesh/+/clients/+/tasks/+/answer: Not authorized. Check "
        )
        link.forged.clear()
        assert (await ask(broker, SUBMIT, HELLO, reply="outcome"))["success"]
