"""Both app channels beside real daprds: turns, and what travels."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from meshwright.core.errors import ConfigError, MeshError, NotFound, StoreUnavailable, TooLarge
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.stores.dapr.callbacks import Callbacks
from meshwright.engine.stores.dapr.channels import choose
from meshwright.engine.stores.dapr.sidecar import decode_reply, encode_error, encode_result
from meshwright.models.errors import RateLimited
from tests.support.dapr_channels import TYPE, ChannelName, Recorder, beside
from tests.support.services import Services

MAX_BODY = 16 * 1024 * 1024  # of daprd, as the stack starts it


@pytest.fixture(params=["grpc", "http"])
def name(request: pytest.FixtureRequest) -> ChannelName:
    return request.param


# Turns


async def test_a_turn_takes_plain_json_and_gives_plain_json(services: Services, name: ChannelName) -> None:
    app = Recorder(name="it")
    body = {"every": "5m", "on": "2026-08-01 or so", "n": 10**20}
    async with beside(services, name, app) as there:
        assert await there.call("default:a", "echo", body) == (200, {"by": "it", "got": body})
        assert await there.call("default:a", "echo") == (200, {"by": "it", "got": None})
        assert json.loads(await there.invoke("default:a", "echo", b'"by gRPC"'))["got"] == "by gRPC"
    assert app.calls[0] == (ActorRef(TYPE, "default:a"), "echo", json.dumps(body).encode())


async def test_no_answer_is_held_back(services: Services, name: ChannelName) -> None:
    async with beside(services, name, Recorder()) as there:
        assert (await there.call("a", "echo"))[0] == 200
        sends_at_once = list(no_delays({there.channel.port, there.sidecar.app.grpc_port}))
        assert sends_at_once and all(sends_at_once)


def no_delays(ports: set[int]) -> Iterator[bool]:
    """Whether each connection of this process with an end at one of these ports sends without waiting."""
    for descriptor in filter(is_socket, map(int, os.listdir("/proc/self/fd"))):
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and ports & {connection.getsockname()[1], connection.getpeername()[1]}:
                yield bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def is_socket(descriptor: int) -> bool:
    """Whether it is one: a copy of another would stay open, and a program that reads it would never end."""
    with suppress(OSError):  # it is closed by now
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return False


async def test_what_a_turn_raises_fails_the_call_once_and_says_why(
    services: Services, name: ChannelName
) -> None:
    app = Recorder()
    async with beside(services, name, app) as there:
        status, answer = await there.call("a", "fail")
        assert status == 500
        assert "NotFound" in answer["message"] and "there is no a. look elsewhere" in answer["message"]
        with pytest.raises(grpc.aio.AioRpcError, match=r"there is no a\. look elsewhere"):
            await there.invoke("a", "fail", b"")
        status, answer = await there.call("a", "break")
        assert status == 500 and "ZeroDivisionError" in answer["message"]
        assert (await there.call("a", "no_such_turn"))[0] == 500
    assert [method for _, method, _ in app.calls] == ["fail", "fail", "break"]


async def test_hosts_raise_one_anothers_errors(services: Services, name: ChannelName) -> None:
    app = Recorder(name="it")

    async def call(body: str) -> object:
        return decode_reply(await there.invoke("a", "call", json.dumps(body).encode()))

    async def refuse(ref: ActorRef, method: str, body: bytes) -> bytes:
        raise NotFound("there is no b", remedy="look elsewhere", field="id")

    async with beside(services, name, app) as there:
        assert await call("x") == {"by": "it", "got": "x"}
        app.on_actor = refuse
        with pytest.raises(NotFound, match=r"^there is no b\. look elsewhere$") as caught:
            await call("x")
        assert caught.value.field == "id"


async def test_a_reply_too_long_to_travel_is_an_error_and_the_next_call_goes_on(
    services: Services, name: ChannelName
) -> None:
    app = Recorder()
    long = b'"%s"' % (b"x" * (MAX_BODY - 1024))
    async with beside(services, name, app) as there:
        _, reply = await there.ask("POST", f"actors/{TYPE}/a/method/deliver", long)
        with pytest.raises(TooLarge):
            decode_reply(reply)
        assert app.calls[0][2] == long
        assert (await there.call("a", "echo"))[0] == 200


async def test_a_call_too_long_for_daprds_stream_does_not_end_the_actors(services: Services) -> None:
    app = Recorder()
    async with beside(services, "grpc", app) as there:
        long = b'"%s"' % (b"x" * (MAX_BODY - 2))  # daprd takes it, and breaks its stream by passing it on
        assert (await there.ask("POST", f"actors/{TYPE}/a/method/echo", long))[0] == 500
        async with asyncio.timeout(240):
            while (await there.call("a", "echo"))[0] != 200:  # until the broken stream is replaced
                await asyncio.sleep(0.1)
    assert len(app.calls) == 1


async def test_actors_wait_until_they_are_served(services: Services) -> None:
    app = Recorder()
    async with beside(services, "http", app, serve=False) as there:
        await there.until_hosting()
        early = asyncio.create_task(there.call("a", "echo"))
        await asyncio.wait({early}, timeout=0.5)
        assert app.calls == [] and not early.done()
        await there.channel.serve_actors()
        assert (await early)[0] == 200


async def test_two_hosts_of_a_type_live_in_one_process(services: Services, name: ChannelName) -> None:
    one, two = Recorder(name="one"), Recorder(name="two")
    async with beside(services, name, one) as first:
        namespace = first.sidecar.app.namespace
        async with beside(services, name, two, namespace=namespace, pod=f"mesh-1_{namespace}") as second:
            ids = [f"a{n}" for n in range(24)]
            by = {(await first.call(each, "echo"))[1]["by"] for each in ids}
            while by != {"one", "two"}:  # until the first sidecar has heard of the second
                by = {(await first.call(each, "echo"))[1]["by"] for each in ids}
            by_first = [(await first.call(each, "echo"))[1]["by"] for each in ids]
            by_second = [(await second.call(each, "echo"))[1]["by"] for each in ids]
            assert by_first == by_second


async def test_two_meshes_in_one_process_know_nothing_of_each_other(
    services: Services, name: ChannelName
) -> None:
    one, two = Recorder(name="one"), Recorder(name="two", kind="Other")
    async with beside(services, name, one) as first, beside(services, name, two) as second:
        assert (await first.hosted()).keys() == {TYPE}
        assert (await second.hosted()).keys() == {"Other"}
        assert (await first.call("a", "echo"))[1]["by"] == "one"
        assert (await second.call("a", "echo", kind="Other"))[1]["by"] == "two"


def test_no_turn_may_have_a_name_that_hosts_use() -> None:
    class Courier(Recorder):
        def __init__(self) -> None:
            Callbacks.__init__(self, {"Courier": ["deliver"]})

    with pytest.raises(ValueError, match="'deliver'"):
        Courier()


# Reminders


async def test_a_reminder_of_a_stranger_stops_nothing(services: Services, name: ChannelName) -> None:
    app = Recorder()
    reminder = {"dueTime": "0s", "data": {"not": "base64!"}}  # data that the SDK cannot read
    async with beside(services, name, app) as there:
        assert (await there.ask("POST", f"actors/{TYPE}/a/reminders/tick", reminder))[0] == 204
        assert (await there.call("a", "echo"))[0] == 200
    assert [method for _, method, _ in app.calls] == ["echo"]


# What needs no daprd


@pytest.mark.parametrize(
    ("version", "channel"),
    [
        *(("1.18.0", "grpc"), ("1.18.2", "grpc"), ("v1.20.0-rc.1", "grpc"), ("2.0.0", "grpc")),
        *(("1.17.9", "http"), ("1.9.0", "http"), ("edge", "http"), ("", "http")),
    ],
)
def test_the_channel_is_chosen_by_the_version(version: str, channel: str) -> None:
    assert choose(version) == channel


def test_a_result_travels() -> None:
    assert decode_reply(encode_result(b'{"a":[1]}')) == {"a": [1]}
    assert decode_reply(encode_result(b"")) is None


def test_an_error_travels_with_all_that_it_says() -> None:
    with pytest.raises(NotFound) as caught:
        decode_reply(encode_error(NotFound("gone", remedy="look", field="task_id")))
    assert (str(caught.value), caught.value.field) == ("gone. look", "task_id")
    with pytest.raises(RateLimited):
        decode_reply(encode_error(RateLimited("slowly")))
    with pytest.raises(ConfigError, match=r"^mesh.toml:3: bad$"):
        decode_reply(encode_error(ConfigError("bad", path="mesh.toml", line=3)))


def test_an_error_that_nobody_knows_here_says_its_name() -> None:
    with pytest.raises(MeshError, match=r"^ZeroDivisionError: by zero$"):
        decode_reply(encode_error(ZeroDivisionError("by zero")))
    with pytest.raises(MeshError, match=r"^Newer: what") as caught:
        decode_reply(b'{"error":{"type":"Newer","message":"what","status":418}}')
    assert caught.value.status == 418


@pytest.mark.parametrize("data", [b"", b"no JSON", b"[]", b'{"message":"what Dapr says"}', b'{"error":1}'])
def test_what_is_no_reply_leaves_open_what_happened(data: bytes) -> None:
    with pytest.raises(StoreUnavailable):
        decode_reply(data)
