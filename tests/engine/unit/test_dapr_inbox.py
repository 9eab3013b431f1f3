"""Events that the inbox has logged are shown, even if their call breaks off."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from meshwright.core.encoding import encode
from meshwright.core.errors import StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.engine.stores.dapr.outbox import StoredActor
from tests.support.event_logs import event, open_log

PATIENCE_SECONDS = 60
TOPIC = "events"


class Office:
    """The callbacks of a worker that keeps a log, and what its listeners were shown."""

    def __init__(self, log: EventLog) -> None:
        self.shown: asyncio.Queue[str] = asyncio.Queue()
        store = DaprStore(Options(), log=log)
        receiver = Runtime(store)
        receiver.listen("#", lambda told: self.shown.put_nowait(told.id))
        self.emitted: list[Event] = []
        store.assemble(receiver)
        store.outbox.emit = self._emit
        store.broker.publish_raw = self._publish
        self.published: list[bytes] = []
        self.callbacks = store.callbacks

    async def _emit(self, events: Sequence[Event], actor: StoredActor | None = None) -> None:
        self.emitted += events

    async def _publish(self, topic: str, body: bytes) -> None:
        self.published.append(body)


def batch(number: int, *events: Event) -> bytes:
    return encode({"v": 1, "from": "other", "n": number, "events": events, "passing": []})


async def test_a_call_that_is_broken_off_while_the_log_is_written_hides_nothing(tmp_path: Path) -> None:
    async with open_log(tmp_path) as kept, asyncio.timeout(PATIENCE_SECONDS):
        office = Office(kept.log)
        for number in range(1, 6):
            data = batch(number, event(number))
            call = asyncio.create_task(office.callbacks.take(TOPIC, data))
            for _ in range(number):  # so far does it come before its sidecar is gone
                await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            assert await office.callbacks.take(TOPIC, data)  # it comes again
            assert await office.shown.get() == event(number).id
        assert office.shown.empty()
        while not any(b'"other":[' in body and b"5]" in body for body in office.published):
            await asyncio.sleep(0)


async def test_what_comes_twice_is_shown_once(tmp_path: Path) -> None:
    async with open_log(tmp_path) as kept, asyncio.timeout(PATIENCE_SECONDS):
        office = Office(kept.log)
        assert await office.callbacks.take(TOPIC, batch(1, event(1), event(2)))
        assert await office.callbacks.take(TOPIC, batch(1, event(1), event(2)))
        assert [office.shown.get_nowait(), office.shown.get_nowait()] == [event(1).id, event(2).id]
        assert office.shown.empty()


async def test_a_message_that_cannot_be_taken_is_given_up_so_that_it_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(events: Sequence[Event]) -> list[Event]:
        raise StoreUnavailable("away")

    async with open_log(tmp_path) as kept:
        office = Office(kept.log)
        office.callbacks.opened.set()
        with monkeypatch.context() as patch:
            patch.setattr(kept.log, "append", away)
            answers = [await office.callbacks.on_topic("bus", TOPIC, batch(1, event(1))) for _ in range(8)]
            assert answers == [False] * 7 + [True]
        assert await office.callbacks.on_topic("bus", TOPIC, batch(1, event(1)))  # its sender sends it again
        assert await office.shown.get() == event(1).id


@pytest.mark.parametrize(
    "data",
    [
        b'{"logged": 1}',
        b'{"logged": [1]}',
        b'{"logged": {"me": 1}}',
        b'{"logged": {"me": ["x"]}}',
        b'{"events": 1, "from": "other", "n": 1}',
        b'{"events": [], "from": "other", "n": 1e999}',
        b'{"events": [], "from": "other", "n": {}}',
        b"[]",
        b"no JSON",
    ],
)
async def test_a_document_of_the_wrong_shape_is_refused_for_good(tmp_path: Path, data: bytes) -> None:
    async with open_log(tmp_path) as kept:
        office = Office(kept.log)
        assert await office.callbacks.take(TOPIC, data)
        [refused] = office.emitted
    assert refused.event_type == "bus.refused"
    assert refused.payload.begins == data.decode()
