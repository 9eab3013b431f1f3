"""Topics by both app channels beside real daprds: acks, refusals, strangers."""

import json

import pytest

from meshwright.core.errors import StoreUnavailable
from meshwright.engine.stores.dapr.callbacks import TopicRoute
from tests.support.dapr_channels import ChannelName, Recorder, beside, own_root
from tests.support.services import Services


@pytest.fixture(params=["grpc", "http"])
def name(request: pytest.FixtureRequest) -> ChannelName:
    return request.param


@pytest.fixture
def root() -> str:
    return own_root()


async def test_a_message_that_is_taken_is_acked(services: Services, name: ChannelName, root: str) -> None:
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}/+"), TopicRoute("views", f"{root}/all/#"))
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
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
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
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
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
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
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
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
    async with beside(services, name, app) as there:
        for each in (payload, b"the next"):  # one that stops cancels what has not been answered by then
            await there.publish_plainly(root, each)
            assert (await app.messages.get())[2] == each
        there.sidecar.stop()
        assert await there.next_for_the_bus(root) != payload


async def test_what_dapr_wraps_is_unwrapped(services: Services, name: ChannelName, root: str) -> None:
    app = Recorder(TopicRoute("bus", f"$share/mesh/{root}", grouped=True))
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
    app = Recorder(TopicRoute("bus", root))
    async with beside(services, name, app, bus="redis") as there:
        await there.publish(root, {"n": 1})
        assert await app.messages.get() == ("bus", root, b'{"n":1}')
