"""An app on a channel beside a daprd of its own, and how strangers call it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import grpc.aio
import paho.mqtt.publish
from dapr.proto import api_service_v1, api_v1
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from meshwright.core.errors import NotFound
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.stores.dapr.callbacks import Callbacks, TopicRoute
from meshwright.engine.stores.dapr.channels import Channel, make_channel
from meshwright.parts.stack.services import new_secret
from tests.support.services import Services, Sidecar

TYPE = "Counter"
ChannelName = Literal["grpc", "http"]


def own_root() -> str:
    return f"bus/{new_secret()[:16]}"


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


class Recorder(Callbacks):
    """An app that notes what it is called with. `wait` ends when `go_on` is set, `fail` and `break` raise."""

    def __init__(self, *routes: TopicRoute, name: str = "", kind: str = TYPE) -> None:
        super().__init__({kind: ["echo", "fail", "break", "wait"]}, routes)
        self.name = name
        self.messages: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
        self.calls: list[tuple[ActorRef, str, bytes]] = []
        self.takes: Callable[[bytes], bool] = lambda data: True
        self.go_on = asyncio.Event()

    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        self.messages.put_nowait((pubsub, topic, data))
        if data == b'"wait"':
            await self.go_on.wait()
        return self.takes(data)

    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        self.calls.append((ref, method, body))
        match method:
            case "fail":
                raise NotFound(f"there is no {ref.id}", remedy="look elsewhere", field="id")
            case "break":
                raise ZeroDivisionError("a defect")
            case "wait":
                await self.go_on.wait()
        return json.dumps({"by": self.name, "got": json.loads(body)}).encode()


class Beside:
    """A channel that serves an app, and the sidecar beside it."""

    def __init__(self, services: Services, channel: Channel, sidecar: Sidecar) -> None:
        self.services = services
        self.channel = channel
        self.sidecar = sidecar
        self.session = aiohttp.ClientSession()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Ask the HTTP API of the sidecar, as any program would that has its token."""
        url = f"http://127.0.0.1:{self.sidecar.app.http_port}/v1.0/{path}"
        headers = {"dapr-api-token": self.sidecar.app.api_token, "content-type": "application/json"} | headers
        data = io.BytesIO(
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        async with self.session.request(method, url, data=data, headers=headers) as response:
            return response.status, await response.read()

    async def call(self, actor_id: str, method: str, body: Any = None, kind: str = TYPE) -> tuple[int, Any]:
        """Call a turn by HTTP."""
        status, data = await self.ask("POST", f"actors/{kind}/{actor_id}/method/{method}", body)
        return status, json.loads(data)

    async def invoke(self, actor_id: str, method: str, body: bytes) -> bytes:
        """Call a turn by gRPC."""
        app = self.sidecar.app
        request = api_v1.InvokeActorRequest(actor_type=TYPE, actor_id=actor_id, method=method, data=body)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
            stub = api_service_v1.DaprStub(channel)
            return (await stub.InvokeActor(request, metadata=(("dapr-api-token", app.api_token),))).data

    async def publish(self, topic: str, body: Any, content: str = "application/json") -> None:
        """Publish on the bus by Dapr, which makes a CloudEvent of it."""
        status, data = await self.ask("POST", f"publish/bus/{topic}", body, **{"content-type": content})
        assert status == 204, data

    async def publish_plainly(self, topic: str, payload: bytes) -> None:
        """Publish as one does who has never heard of Dapr."""
        broker = urlsplit(self.services.broker_url)
        auth = {"username": broker.username, "password": broker.password}
        await asyncio.to_thread(
            paho.mqtt.publish.single,
            topic,
            payload,
            qos=1,
            hostname=broker.hostname,
            port=broker.port,
            auth=auth,
        )

    async def hosted(self) -> dict[str, int]:
        """The actor types of this sidecar, and how many actors of each it has active."""
        _, data = await self.ask("GET", "metadata")
        return {
            each["type"]: each.get("count", 0) for each in json.loads(data)["actorRuntime"]["activeActors"]
        }

    async def until_hosting(self) -> None:
        """Wait until placement knows the actor types of this sidecar."""
        while True:
            _, data = await self.ask("GET", "metadata")
            actors = json.loads(data).get("actorRuntime", {})
            if actors.get("hostReady") and actors.get("activeActors"):
                return
            await asyncio.sleep(0.02)

    async def next_for_the_bus(self, topic: str) -> bytes:
        broker = urlsplit(self.services.broker_url)
        app = self.sidecar.app
        client = Client(CallbackAPIVersion.VERSION2, f"{app.app_id}-{app.pod}", clean_session=False)
        client.username_pw_set(broker.username, broker.password)
        loop, first = asyncio.get_running_loop(), asyncio.Queue()
        client.on_message = lambda _, __, message: loop.call_soon_threadsafe(
            first.put_nowait, message.payload
        )
        await asyncio.to_thread(client.connect, broker.hostname, broker.port)
        client.loop_start()
        try:
            await self.publish_plainly(topic, b"ours")
            return await first.get()
        finally:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)


@asynccontextmanager
async def beside(
    services: Services,
    name: ChannelName,
    app: Recorder,
    app_id: str = "mesh",
    *,
    serve: bool = True,
    **options: Any,
) -> AsyncIterator[Beside]:
    """Serve an app on the channel of that name, beside a daprd that is ready. `options` are the sidecar's."""
    [grpc_port] = services.ports.take(1)
    tokens = {"api_token": new_secret(), "app_token": new_secret()}
    channel = make_channel(name, app_port=0, sidecar_port=grpc_port, **tokens)
    await channel.listen(app)
    ports = {"port": channel.port, "grpc_port": grpc_port}
    sidecar = services.daprd(app_id, protocol=name, **ports, **tokens, **options)
    there = Beside(services, channel, sidecar)
    try:
        await sidecar.start()
        if serve:
            await channel.serve_actors()
            await there.until_hosting()
        yield there
    finally:
        await there.session.close()
        await channel.stop()
        sidecar.end()
