"""Brokers that keep MQTT in ways of their own: each message is one task, and what they lack is said."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import HELLO, SECONDS, SUBMIT, Client, client, payloads_of
from tests.support.running_mesh import mesh_up, run
from tests.support.scripted_broker import (
    HABITS,
    MOCHI,
    MOCHI_WINDOW,
    RABBITMQ_3_10,
    Habits,
    ScriptedBroker,
    scripted_broker,
)

HERE = {"agent_id": "simple-agent", "payload": {"text": "nightly report"}}
NOT_TOLD = "It does not tell a redelivered message from an equal new one"


@pytest.fixture(params=HABITS)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedBroker]:
    async with scripted_broker(HABITS[request.param]) as broker:
        yield broker


@asynccontextmanager
async def mesh_at(broker: ScriptedBroker, folder: Path) -> AsyncIterator[tuple[Api, Client]]:
    """A mesh that has tried its broker, and a client of it."""
    async with http_mesh(folder, mqtt_url=broker.url) as api, client(broker) as caller:
        await payloads_of(api.mesh, "edge.connected")
        await until(lambda: trials(broker) == 2)
        await until(lambda: not any("trial" in name for name in broker.sessions))
        yield api, caller


def trials(broker: ScriptedBroker) -> int:
    """The connections by which the mesh has tried the broker."""
    return sum(name.startswith("mesh-edge-trial-") for name in broker.connects)


async def until(enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not enough():
            await asyncio.sleep(0.01)


async def publish(caller: Client, task: dict[str, Any]) -> None:
    """Publish a task; the broker has it when this returns."""
    await asyncio.to_thread(caller.publish(SUBMIT, task).wait_for_publish, SECONDS)


async def send(caller: Client, *texts: str) -> None:
    """Publish tasks without a key."""
    for text in texts:
        await publish(caller, {"agent_id": "echo", "payload": {"text": text}})


async def tasks(api: Api) -> list[str]:
    return sorted(item["task_id"] for item in (await api.get("/tasks", limit=100))["items"])


async def last_task(broker: ScriptedBroker) -> None:
    """All that was published before is done: the broker keeps the order."""
    async with client(broker) as caller:
        await caller.request(SUBMIT, {**HELLO, "task_id": "last"})
        await until(lambda: not broker.sessions["mesh-edge"].flying)


# Redelivered, and equal


async def test_messages_that_come_again_over_new_connections_are_no_second_tasks(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    async with mesh_at(broker, tmp_path) as (api, caller):
        await send(caller, "one", "two", "three")
        await until(lambda: len(broker.sessions["mesh-edge"].acknowledged) == 3)
        broker.ignore("mesh-edge")
        await send(caller, "four", "five", "five", "four", "six")
        await payloads_of(api.mesh, "task.accepted", 4 if broker.habits.sends_one_at_a_time else 8)
        broker.break_links()
        await payloads_of(api.mesh, "edge.connected", 2)
        broker.break_links()
        await last_task(broker)
        assert len(await tasks(api)) == 9


async def test_an_equal_message_on_its_way_to_a_killed_mesh_is_a_task_of_its_own(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    up = (tmp_path / "data", "--mqtt", broker.url)
    async with client(broker) as caller:
        async with mesh_up(*up) as first:
            await until(lambda: trials(broker) == 2)
            await publish(caller, HERE)
            await until(lambda: len(broker.sessions["mesh-edge"].acknowledged) == 1)
            await first.outcome(await first.submit("hello"))  # the acknowledgement is settled by then
            os.kill(json.loads((first.data / "mesh.json").read_text())["pid"], signal.SIGSTOP)
            await publish(caller, HERE)
            await first.kill()
        async with mesh_up(*up) as second:
            await until(lambda: len(broker.sessions["mesh-edge"].acknowledged) == 2)
            assert len((await second.get("/tasks")).body["items"]) == 3


async def test_messages_whose_acknowledgements_a_killed_broker_forgot_are_no_second_tasks(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    async with mesh_at(broker, tmp_path) as (api, caller):
        await send(caller, *(f"text {number}" for number in range(10)))
        await until(lambda: len(broker.sessions["mesh-edge"].acknowledged) == 10)
        await api.finished(agent_id="echo")
        habits, broker.habits = broker.habits, RABBITMQ_3_10
        broker.kill(forgets_acknowledgements=True)
        await broker.start()
        await until(lambda: broker.refusals > 0)  # it is on its way back
        broker.habits = habits
        await payloads_of(api.mesh, "edge.connected", 2)
        await last_task(broker)
        assert len(await tasks(api)) == 12


async def test_a_broker_is_warned_of_where_it_does_not_tell_equal_messages_apart(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    async with mesh_at(broker, tmp_path) as (api, _):
        if broker.habits == HABITS["mosquitto-2.0.11"]:
            assert (await api.get("/status"))["brokers"][0]["limits"] == []
            return
        [limited] = await payloads_of(api.mesh, "edge.limited")
        assert limited["limits"][0].startswith(NOT_TOLD)
        assert (await api.get("/status"))["brokers"][0]["limits"] == limited["limits"]
        assert broker.habits.echoes == any("No Local" in limit for limit in limited["limits"])
        assert broker.habits.retained_by_wildcard != any("by name" in limit for limit in limited["limits"])


async def test_the_mesh_hears_nothing_that_it_says_itself(broker: ScriptedBroker, tmp_path: Path) -> None:
    async with mesh_at(broker, tmp_path) as (api, caller):
        await send(caller, "one")
        await payloads_of(api.mesh, "task.succeeded")
        await last_task(broker)
        assert broker.subscriptions["mesh-edge"] == [
            f"mesh/{sender}/{name}"
            for sender in ("+", "+/clients/+")
            for name in ("submit", "tasks", "tasks/+/cancel", "tasks/+/answer")
        ]
        assert (await api.get("/events", event_type="edge.refused"))["items"] == []


# What a broker lacks


@pytest.mark.parametrize(
    ("habits", "text"),
    [
        (Habits(granted_qos=0), "It delivers to the mesh at QoS 0 only"),
        (Habits(maximum_qos=0), "It takes messages at QoS 0 only"),
        (Habits(retains=False), "It keeps no retained messages"),
        (Habits(session_seconds=60), "It keeps the mesh's session for 60 s, not 86,400"),
        (HABITS["rabbitmq-4.3.6"], NOT_TOLD),
    ],
)
async def test_what_a_broker_lacks_is_in_log_event_status_and_doctor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, habits: Habits, text: str
) -> None:
    async with scripted_broker(habits) as broker, http_mesh(tmp_path, mqtt_url=broker.url) as api:
        [limited, *_] = await payloads_of(api.mesh, "edge.limited")
        assert any(limit.startswith(text) for limit in limited["limits"])
        assert any(limit.startswith(text) for limit in (await api.get("/status"))["brokers"][0]["limits"])
        assert any(text in record.getMessage() for record in caplog.records)
        async with client(broker) as caller:
            await caller.request(SUBMIT, HELLO)
        done = await asyncio.to_thread(run, "doctor", cwd=tmp_path, MESH_MQTT__URL=broker.url)
        [line] = [line for line in done.stdout.splitlines() if line.split()[1:2] == ["mqtt"]]
        assert line.startswith("warn") and text in line


async def test_a_broker_that_closes_without_a_word_may_not_speak_mqtt_5(tmp_path: Path) -> None:
    async with (
        scripted_broker(RABBITMQ_3_10) as broker,
        http_mesh(tmp_path / "mesh", mqtt_url=broker.url) as api,
    ):
        [away] = await payloads_of(api.mesh, "edge.disconnected")
        assert away["reason"].startswith("it closed the connection without a word. It may not speak MQTT 5")
        done = await asyncio.to_thread(run, "doctor", cwd=tmp_path, MESH_MQTT__URL=broker.url)
        assert "it may not speak MQTT 5" in done.stdout


async def test_a_broker_that_answers_nothing_may_not_speak_mqtt_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.edges.broker.connection._ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        async with http_mesh(tmp_path / "mesh", mqtt_url=url) as api:
            [away] = await payloads_of(api.mesh, "edge.disconnected")
        assert away["reason"].startswith("it did not answer within 0.3 s. It may not speak MQTT 5")


async def test_a_session_that_cannot_be_resumed_is_left_and_its_loss_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_broker(Habits()) as broker:
        async with mesh_at(broker, tmp_path / "mesh"):
            pass
        async with client(broker) as caller:
            await send(caller, "lost", "lost too")
        broker.habits = MOCHI
        async with http_mesh(tmp_path / "mesh", mqtt_url=broker.url) as api:
            [lost] = await payloads_of(api.mesh, "edge.session_lost")
            assert lost["reason"].startswith("it cut our session off 3 times without a word")
            assert "are lost" in lost["reason"]
            await last_task(broker)
            assert await tasks(api) == ["last"]
            assert broker.connects.count("mesh-edge") == 5  # once before, three times in vain, once anew
            assert (await api.get("/status"))["brokers"][0]["session_lost_at"] is not None
    assert not any("another mesh may use" in record.getMessage() for record in caplog.records)


async def test_messages_that_wait_for_their_turn_at_the_broker_become_tasks(tmp_path: Path) -> None:
    async with scripted_broker(MOCHI_WINDOW) as broker, mesh_at(broker, tmp_path) as (api, caller):
        broker.pause("mesh-edge")
        await send(caller, *(f"text {number}" for number in range(200)))
        broker.resume("mesh-edge")
        await payloads_of(api.mesh, "task.accepted", 200)


async def test_a_session_that_a_broker_has_lost_is_reported(tmp_path: Path) -> None:
    async with (
        scripted_broker(HABITS["mosquitto-2.0.11"]) as broker,
        mesh_at(broker, tmp_path) as (api, caller),
    ):
        await send(caller, "one")
        await payloads_of(api.mesh, "task.accepted")
        broker.kill()
        broker.forget()
        await broker.start()
        [lost] = await payloads_of(api.mesh, "edge.session_lost")
        assert lost["reason"].startswith("it has our session no more")
        await payloads_of(api.mesh, "edge.connected", 2)
        async with client(broker) as other:
            await send(other, "one")  # equal, and new: the broker holds nothing of before
        await payloads_of(api.mesh, "task.accepted", 2)


async def test_doctor_says_that_the_running_mesh_is_cut_off_and_has_lost_messages(tmp_path: Path) -> None:
    async with scripted_broker(Habits()) as broker, mesh_up(tmp_path, "--mqtt", broker.url) as running:
        broker.kill()
        await running.until(lambda event: event["event_type"] == "edge.disconnected")
        done = await asyncio.to_thread(run, "doctor", "--data", str(tmp_path))
        [line] = [line for line in done.stdout.splitlines() if line.startswith("FAIL  broker")]
        assert f"The running mesh is cut off from {broker.url}" in line
        status = await asyncio.to_thread(run, "status", "--data", str(tmp_path))
        assert f"{broker.url}: cut off for" in status.stdout
        broker.forget()
        await broker.start()
        await running.until(lambda event: event["event_type"] == "edge.session_lost")
        done = await asyncio.to_thread(run, "doctor", "--data", str(tmp_path))
        [line] = [line for line in done.stdout.splitlines() if line.startswith("warn  broker")]
        assert "The broker lost messages" in line


async def test_the_will_has_a_delay_without_which_some_brokers_keep_it_for_a_day(tmp_path: Path) -> None:
    async with scripted_broker(Habits()) as broker, mesh_at(broker, tmp_path):
        assert broker.wills["mesh-edge"] == b"\x18\x00\x00\x00\x01"
