"""Unsent entries of another worker are its own while it lives, and adopted afterwards."""

import asyncio

import pytest

from meshwright.core.errors import HostError, StoreTooNew, StoreTooOld
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.dapr import DaprStore, Options, outbox
from meshwright.engine.stores.dapr.documents import Document, OutboxEntry
from meshwright.engine.stores.dapr.outbox import MAX_CARRIED, StoredActor
from meshwright.engine.stores.dapr.sidecar import encode_result
from tests.support.event_logs import event

REF = ActorRef("Diary", "one")
MISSING = ActorRef("Stranger", "one")
TURNS = 50  # of the event loop


class Stored:
    """An actor whose document has entries of two workers, one of which may have expired."""

    def __init__(self, *, expired: bool, theirs: int = 1) -> None:
        self.store = DaprStore(Options())
        runtime = Runtime(self.store)
        self.store.assemble(runtime)
        own = OutboxEntry(event(0), runtime.incarnation)
        others = [OutboxEntry(event(n), "other") for n in range(1, theirs + 1)]
        self.document = Document(ActorRecord(revision=3), [*others, own], ("other/7",))
        self.expired = expired
        self.store.documents.read = self._read
        self.store.lease.has_expired = self._is_expired

    async def load(self) -> StoredActor:
        actor = self.store.actors.find(REF)
        await self.store.recovery.load(actor)
        return actor

    async def _read(self, ref: ActorRef) -> tuple[Document, str | None]:
        return self.document, "3"

    async def _is_expired(self, incarnation: str) -> bool:
        assert incarnation == "other"
        return self.expired


def ids(entries: list[OutboxEntry]) -> list[str]:
    return [entry.item.id for entry in entries]


async def test_entries_of_a_live_worker_are_carried() -> None:
    actor = await Stored(expired=False).load()
    assert (ids(actor.carried), ids(actor.outbox)) == ([f"{REF}/1"], [f"{REF}/0"])
    assert actor.is_owed and not actor.only_carries


@pytest.mark.parametrize(("expired", "theirs"), [(True, 1), (False, MAX_CARRIED + 1)])
async def test_entries_of_an_expired_worker_or_too_many_are_sent(*, expired: bool, theirs: int) -> None:
    actor = await Stored(expired=expired, theirs=theirs).load()
    assert actor.carried == []
    assert len(actor.outbox) == theirs + 1


async def test_an_entry_that_arrived_is_not_sent_again() -> None:
    stored = Stored(expired=True)
    actor = await stored.load()
    for entry in list(actor.outbox):
        actor.ended_ids.append(entry.item.id)
    actor.outbox.clear()
    actor.forget()
    assert (await stored.load()).outbox == []


async def test_an_actor_that_only_carries_stays_watched() -> None:
    stored = Stored(expired=False)
    stored.document.outbox.pop()
    actor = await stored.load()
    assert actor.only_carries and actor.is_owed


@pytest.mark.parametrize(("version", "error"), [(1, StoreTooOld), (3, StoreTooNew)])
def test_a_document_of_another_version_is_refused(version: int, error: type[HostError]) -> None:
    known = Document(by=("commit",)).encode()
    assert Document.decode(known).by == ("commit",)
    with pytest.raises(error, match=f"version {version}"):
        Document.decode(known.replace(b'{"v":2', b'{"v":%d' % version))


class SlowSidecar:
    """Answers once it is let: daprd takes seconds to find a process."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_answer = asyncio.Event()

    async def invoke(self, ref: ActorRef, method: str, data: bytes) -> bytes:
        self.calls += 1
        await self.may_answer.wait()
        return encode_result(b"")


async def test_tries_of_two_actors_may_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_MISSING_SECONDS", 0.0)
    store, sidecar = DaprStore(Options()), SlowSidecar()
    runtime = Runtime(store)
    store.assemble(runtime)
    monkeypatch.setattr(store.sidecar, "invoke", sidecar.invoke)
    actors = [store.actors.find(ActorRef("Sender", name)) for name in ("one", "two")]
    for actor in actors:
        message = Message(f"{actor.ref}/1", MISSING, "add")
        actor.outbox.append(OutboxEntry(message, runtime.incarnation))
        store.outbox.send(actor)
    await turns()
    assert sidecar.calls == 2
    sidecar.may_answer.set()
    await turns()
    assert [entry.item.id for actor in actors for entry in actor.outbox] == []


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
