"""Both app channels when strangers call, when a daprd goes, and at their end."""

import asyncio

import aiohttp
import grpc
import grpc.aio
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from grpc.aio._channel import Channel

from meshwright.core.errors import ConfigError, Draining
from meshwright.engine.stores.dapr.callbacks import TopicRoute
from meshwright.engine.stores.dapr.channels import make_channel
from meshwright.engine.stores.dapr.sidecar import decode_reply
from tests.support.dapr_channels import TYPE, ChannelName, Recorder, beside, own_root, until
from tests.support.services import Services


@pytest.fixture(params=["grpc", "http"])
def name(request: pytest.FixtureRequest) -> ChannelName:
    return request.param


@pytest.fixture
def root() -> str:
    return own_root()


# Tokens


async def test_only_daprd_may_call_over_grpc(services: Services, root: str) -> None:
    app = Recorder(TopicRoute("bus", root))
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
    app = Recorder(TopicRoute("bus", root))
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
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
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


async def test_actors_come_back_after_a_sidecar_was_away_for_some_time(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses_over = asyncio.Event()
    async with beside(services, "grpc", Recorder()) as there:
        connected = Channel.channel_ready

        async def channel_ready(channel: Channel) -> None:
            pauses_over.set()
            await connected(channel)

        monkeypatch.setattr(Channel, "channel_ready", channel_ready)
        there.sidecar.kill()
        await pauses_over.wait()
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
            await until(lambda: "UNAUTHENTICATED: Unauthorized" in caplog.text)
        await there.sidecar.start()
        await there.until_hosting()
        assert (await there.call("a", "echo"))[0] == 200


async def test_callbacks_under_way_end_before_the_channel_has_stopped(
    services: Services, name: ChannelName, root: str
) -> None:
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
    async with beside(services, name, app) as there:
        calls = [asyncio.create_task(there.call(f"a{n}", "wait")) for n in range(30)]
        await until(lambda: len(app.calls) == 30)
        await there.publish_plainly(root, b'"wait"')
        await app.messages.get()
        stopping = asyncio.create_task(there.channel.stop())
        await asyncio.sleep(0)  # it has begun to stop
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
