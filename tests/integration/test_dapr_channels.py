"""Both app channels beside real daprds: topics, turns, reminders, strangers, tokens, crashes, a quiet end."""

import asyncio
import json
import time
from collections.abc import Callable

import aiohttp
import grpc
import grpc.aio
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from meshwright.envelope import ActorRef
from meshwright.errors import ConfigError, Draining, MeshError, NotFound, StoreUnavailable, TooLarge
from meshwright.hosts.dapr.channels import choose, make_channel
from meshwright.hosts.dapr.channels.actors import actor_class
from meshwright.hosts.dapr.channels.port import Route
from meshwright.hosts.dapr.channels.replies import decode_reply, encode_error, encode_result
from meshwright.models.port import RateLimited
from meshwright.stack.services import new_secret
from tests.integration.dapr_channels import TYPE, ChannelName, Recorder, beside
from tests.services import Services

MAX_BODY = 16 * 1024 * 1024  # of daprd, as the stack starts it


@pytest.fixture(params=["grpc", "http"])
def name(request: pytest.FixtureRequest) -> ChannelName:
    return request.param


@pytest.fixture
def root() -> str:
    """Where this test's topics are, on a broker that it shares."""
    return f"bus/{new_secret()[:16]}"


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


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
    durations = []
    async with beside(services, name, Recorder()) as there:
        for _ in range(20):
            started = time.perf_counter()
            await there.call("a", "echo")
            durations.append(time.perf_counter() - started)
    assert min(durations) < 0.03  # one that waits for an acknowledgement takes more than 0.04 s


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
        assert (await there.call("a", "echo"))[0] == 200
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
        async with beside(services, name, two, namespace=namespace, pod=f"mesh-1.{namespace}") as second:
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
    with pytest.raises(ValueError, match="'deliver'"):
        actor_class("Courier", ["deliver"])


# Reminders


async def test_a_reminder_comes_again_and_again(services: Services, name: ChannelName) -> None:
    app = Recorder()
    # A stranger may register one too, with data that the SDK cannot read.
    reminder = {"dueTime": "0s", "period": "1s", "data": {"not": "base64!"}}
    async with beside(services, name, app) as there:
        assert (await there.ask("POST", f"actors/{TYPE}/a/reminders/tick", reminder))[0] == 204
        for _ in range(2):
            assert await app.reminders.get() == (ActorRef(TYPE, "a"), "tick")
        await there.ask("DELETE", f"actors/{TYPE}/a/reminders/tick")


# Topics


async def test_a_message_that_is_taken_is_acked(services: Services, name: ChannelName, root: str) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}/+"), Route("views", f"{root}/all/#"))
    async with beside(services, name, app) as there:
        await there.publish(f"{root}/x", {"n": 1})
        assert await app.messages.get() == ("bus", f"{root}/x", b'{"n":1}')
        await there.publish_plainly(f"{root}/all/of/it", b"{}")
        assert await app.messages.get() == ("views", f"{root}/all/of/it", b"{}")
        there.sidecar.stop()
        assert await there.next_for_the_bus(f"{root}/x") == b"ours"


async def test_a_message_that_is_refused_comes_again_and_is_not_acked(
    services: Services, name: ChannelName, root: str
) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    answers = iter([False, True, False])
    app.takes = lambda data: next(answers, False)
    async with beside(services, name, app) as there:
        await there.publish_plainly(root, b"first")
        assert [(await app.messages.get())[2] for _ in range(2)] == [b"first", b"first"]
        await there.publish_plainly(root, b"second")
        assert (await app.messages.get())[2] == b"second"
        there.sidecar.kill()
        assert await there.next_for_the_bus(root) == b"second"


async def test_messages_that_come_while_one_is_under_way_come_together_and_are_refused_alone(
    services: Services, root: str
) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    refused: list[bytes] = []

    def takes(data: bytes) -> bool:
        if data == b"two" and not refused:
            refused.append(data)
            return False
        return True

    app.takes = takes
    async with beside(services, "grpc", app) as there:
        await there.publish(root, "wait")
        assert (await app.messages.get())[2] == b'"wait"'
        for each in (b"one", b"two", b"three"):
            await there.publish_plainly(root, each)
        app.go_on.set()
        came = [(await app.messages.get())[2] for _ in range(4)]
        assert sorted(came[:3]) == [b"one", b"three", b"two"] and came[3] == b"two"
        await there.publish_plainly(root, b"four")
        assert (await app.messages.get())[2] == b"four"


async def test_a_message_whose_handling_fails_comes_again(
    services: Services, name: ChannelName, root: str
) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    faults = iter([StoreUnavailable("not now"), ZeroDivisionError("a defect")])

    def takes(data: bytes) -> bool:
        for fault in faults:
            raise fault
        return True

    app.takes = takes
    async with beside(services, name, app) as there:
        await there.publish(root, "it")
        assert [(await app.messages.get())[2] for _ in range(3)] == [b'"it"'] * 3


@pytest.mark.parametrize(
    "payload",
    [b"\xff\x00 no text", b"", b"{not json", b'{"traceparent": 5}', b'{"specversion": "1.0"}', b"[" * 5000],
    ids=["bytes", "nothing", "almost JSON", "a strange trace", "almost a CloudEvent", "nested"],
)
async def test_what_a_stranger_publishes_arrives_as_it_is_and_stops_nothing(
    services: Services, name: ChannelName, root: str, payload: bytes
) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    async with beside(services, name, app) as there:
        for each in (payload, b"the next"):  # one that stops cancels what has not been answered by then
            await there.publish_plainly(root, each)
            assert (await app.messages.get())[2] == each
        there.sidecar.stop()
        assert await there.next_for_the_bus(root) != payload


async def test_what_dapr_wraps_is_unwrapped(services: Services, name: ChannelName, root: str) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    async with beside(services, name, app) as there:
        await there.publish(root, b'"JSON"')
        assert (await app.messages.get())[2] == b'"JSON"'
        await there.publish(root, b'a "text"', "text/plain")
        assert (await app.messages.get())[2] == b'a "text"'
        await there.publish(root, b"\xff\x00", "application/octet-stream")
        assert (await app.messages.get())[2] == b"\xff\x00"
        event = {"specversion": "1.0", "id": "1", "source": "me", "type": "t", "data": [1, {"a": "é"}]}
        await there.publish_plainly(root, json.dumps(event).encode())
        assert (await app.messages.get())[2] == '[1,{"a":"é"}]'.encode()


async def test_the_bus_may_be_a_redis_stream(services: Services, name: ChannelName, root: str) -> None:
    app = Recorder(Route("bus", root))
    async with beside(services, name, app, bus="redis") as there:
        await there.publish(root, {"n": 1})
        assert await app.messages.get() == ("bus", root, b'{"n":1}')


# Tokens


async def test_only_daprd_may_call_over_grpc(services: Services, root: str) -> None:
    app = Recorder(Route("bus", root))
    async with (
        beside(services, "grpc", app) as there,
        grpc.aio.insecure_channel(f"127.0.0.1:{there.channel.port}") as channel,
    ):
        stub = appcallback_pb2_grpc.AppCallbackStub(channel)
        event = appcallback_pb2.TopicEventRequest(pubsub_name="bus", topic=root, data=b"1")
        for metadata in ((), (("dapr-api-token", "another"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.OnTopicEvent(event, metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.OnInvoke(Empty())
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert app.messages.empty()
        health = appcallback_pb2_grpc.AppCallbackHealthCheckStub(channel)
        await health.HealthCheck(Empty())


async def test_only_daprd_may_call_over_http(services: Services, root: str) -> None:
    app = Recorder(Route("bus", root))
    async with beside(services, "http", app) as there, aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, token: str | None = None) -> int:
            headers = {"dapr-api-token": token} if token else {}
            url = f"http://127.0.0.1:{there.channel.port}{path}"
            async with session.request(method, url, data=b"{}", headers=headers) as response:
                return response.status

        for path in (f"/actors/{TYPE}/a/method/echo", "/topics/0", "/dapr/config", "/openapi.json"):
            assert await ask("PUT", path) == await ask("PUT", path, "another") == 401
        assert app.calls == [] and app.messages.empty()
        assert await ask("GET", "/healthz") == 200
        assert await ask("PUT", f"/actors/{TYPE}/a/method/echo", there.sidecar.app.app_token) == 200


async def test_a_sidecar_that_refuses_our_token_is_an_error_that_says_what_to_do(services: Services) -> None:
    async with beside(services, "grpc", Recorder(), serve=False) as there:
        channel = make_channel("grpc", app_port=0, sidecar_port=there.sidecar.app.grpc_port, api_token="x")
        await channel.listen(Recorder())
        with pytest.raises(ConfigError, match="DAPR_API_TOKEN"):
            await channel.serve_actors()
        await channel.stop()


async def test_a_sidecar_of_the_other_channel_is_an_error_that_says_what_to_do(services: Services) -> None:
    async with beside(services, "http", Recorder()) as there:
        app = there.sidecar.app
        channel = make_channel("grpc", app_port=0, sidecar_port=app.grpc_port, api_token=app.api_token)
        await channel.listen(Recorder())
        with pytest.raises(ConfigError, match="--app-protocol grpc"):
            await channel.serve_actors()
        await channel.stop()


# Crashes, and the end


async def test_everything_comes_back_after_kill_9_of_the_sidecar(
    services: Services, name: ChannelName, root: str
) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    async with beside(services, name, app) as there:
        await there.publish(root, 1)
        assert (await app.messages.get())[2] == b"1"
        assert (await there.call("a", "echo"))[0] == 200
        there.sidecar.kill()
        await there.sidecar.start()
        await there.until_hosting()
        assert (await there.call("a", "echo"))[0] == 200
        await there.publish(root, 2)
        assert (await app.messages.get())[2] == b"2"


async def test_actors_come_back_after_a_sidecar_was_away_for_longer_than_the_sdk_waits(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dapr.conf.settings.DAPR_HEALTH_TIMEOUT", 0.1)
    async with beside(services, "grpc", Recorder()) as there:
        there.sidecar.kill()
        await until(lambda: caplog.text.count("the stream of actor calls has ended") == 2)
        await there.sidecar.start()
        await there.until_hosting()
        assert (await there.call("a", "echo"))[0] == 200


async def test_actors_come_back_after_a_sidecar_has_refused_them(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async with beside(services, "grpc", Recorder()) as there:
        there.sidecar.kill()
        mine = there.sidecar.app
        ports = {"port": mine.port, "grpc_port": mine.grpc_port, "http_port": mine.http_port}
        async with services.sidecar(**ports, namespace=mine.namespace):  # with a token of its own
            await until(lambda: "ended, again in 0.5 s: UNAUTHENTICATED: Unauthorized" in caplog.text)
        await there.sidecar.start()
        await there.until_hosting()
        assert (await there.call("a", "echo"))[0] == 200


async def test_callbacks_under_way_end_before_the_channel_has_stopped(
    services: Services, name: ChannelName, root: str
) -> None:
    app = Recorder(Route("bus", f"$share/mesh/{root}", grouped=True))
    async with beside(services, name, app) as there:
        calls = [asyncio.create_task(there.call(f"a{n}", "wait")) for n in range(30)]
        await until(lambda: len(app.calls) == 30)
        await there.publish_plainly(root, b'"wait"')
        await app.messages.get()
        stopping = asyncio.create_task(there.channel.stop())
        await asyncio.sleep(0.1)
        with pytest.raises(Draining):
            decode_reply(await there.invoke("b", "call", b"8"))
        app.go_on.set()
        assert {status for status, _ in await asyncio.gather(*calls)} == {200}
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", there.channel.port)
        there.sidecar.stop()
        assert await there.next_for_the_bus(root) == b"ours"


async def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(name: ChannelName) -> None:
    first = make_channel(name, app_port=0, sidecar_port=1)
    await first.listen(Recorder())
    second = make_channel(name, app_port=first.port, sidecar_port=1)
    with pytest.raises(ConfigError, match=f"the app port {first.port} cannot be listened on"):
        await second.listen(Recorder())
    await first.stop()
    await second.stop()


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
