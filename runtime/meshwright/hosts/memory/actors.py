"""The active actors, and the heart of the host: one turn, run and committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from meshwright.actor import Actor
from meshwright.bus import Bus
from meshwright.clock import Clock
from meshwright.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.errors import Conflict, NotFound
from meshwright.host import dead_letter
from meshwright.hosts.memory.codec import encode_record, through_json
from meshwright.hosts.memory.faults import Faults
from meshwright.hosts.memory.mailbox import Letter
from meshwright.hosts.memory.store import Changes, Store
from meshwright.messages import Event
from meshwright.turns import ActorKind, Commit, take_turn


@dataclass(frozen=True, slots=True)
class Done:
    """What is committed and left to do: letters to deliver, and a turn's signals, reply and alarm to give.

    `lost` says that not every subscriber is delivered what it should be.
    """

    letters: list[Letter] = field(default_factory=list)
    commit: Commit | None = None
    sets_alarm: bool = False
    lost: bool = False


class Actors:
    """Activates actors from their bytes, runs their turns, and commits what comes of them."""

    def __init__(self, store: Store, bus: Bus, clock: Clock, faults: Faults, max_bytes: int) -> None:
        self.kinds: dict[str, ActorKind] = {}
        self._store = store
        self._bus = bus
        self._clock = clock
        self._faults = faults
        self._max_bytes = max_bytes
        self._active: dict[ActorRef, tuple[ActorRecord, Actor[Any]]] = {}

    def kind(self, ref: ActorRef) -> ActorKind:
        """The actor's kind. Raises NotFound where nobody registered it."""
        try:
            return self.kinds[ref.type]
        except KeyError:
            raise NotFound(f"no actor type {ref.type!r} is registered", field="type") from None

    def drop(self) -> None:
        """Deactivate every actor: the next turn of each begins with its bytes."""
        self._active.clear()

    def run(self, letter: Letter) -> Done:
        """Run a turn and commit it. What the turn raises is passed on, and then nothing has changed."""
        ref = letter.message.to
        while True:
            head, actor = self._active.pop(ref, None) or self._activate(ref)
            if letter.alarm is not None and letter.alarm != head.wake_at:
                return Done()  # it was moved or cleared after it rang
            commit = self._turn(actor, head, letter)
            changed = commit.changed or commit.head.processed_ids != head.processed_ids
            try:
                done = self._commit(head, commit, letter, changed=changed)
            except Conflict:
                continue  # another host's turn came first: ours runs again, on what that one left
            self._active[ref] = (commit.head if changed else head, actor)
            return done

    def publish(self, events: Sequence[Event], *, taken: int | None = None) -> Done:
        """Commit events that no turn asked for, unless they are known; `taken` is what they are about."""
        return self._write(Changes(taken=taken), self._unknown(events))

    def append(self, record: Record, events: Sequence[Event]) -> Done:
        """Commit a record and the events that go with it, unless that number is written."""
        is_written = self._store.record((record.ref, record.stream), record.n) is not None
        return self._write(Changes(), [] if is_written else events, (), [record])

    def emit(self, events: Sequence[Event]) -> Done:
        """Commit events that this process made."""
        return self._write(Changes(), events)

    def _unknown(self, events: Sequence[Event]) -> list[Event]:
        return [event for event in events if not self._store.knows_event(event.id)]

    def refuse(self, letter: Letter, error: Exception) -> Done:
        """Commit that a message was not taken; a second time changes nothing. An alarm is cleared by it."""
        event = dead_letter(letter.message, error, self._clock.now())
        if letter.alarm is None:
            return self.publish([event], taken=letter.n)
        ref = letter.message.to
        head = self._store.head(ref)
        cleared = replace(head, revision=head.revision + 1, wake_at=None)
        return self._write(Changes(ref, head.revision, cleared.encode()), [event])

    def _activate(self, ref: ActorRef) -> tuple[ActorRecord, Actor[Any]]:
        head = self._store.head(ref)
        return head, self.kind(ref).activate(ref, head)

    def _turn(self, actor: Actor[Any], head: ActorRecord, letter: Letter) -> Commit:
        commit = take_turn(
            self.kind(actor.ref),
            actor,
            head,
            letter.message,
            self._clock.now(),
            remember=letter.may_repeat,
            max_bytes=self._max_bytes,
        )
        if letter.reply is not None:
            commit.reply = through_json(commit.reply)
        return commit

    def _commit(self, head: ActorRecord, commit: Commit, letter: Letter, *, changed: bool) -> Done:
        changes = Changes(
            commit.ref,
            head.revision,
            commit.head.encode() if changed else None,
            letter.n,
        )
        done = self._write(changes, commit.events, commit.sends, commit.records)
        sets_alarm = letter.alarm is not None or commit.head.wake_at != head.wake_at
        return replace(done, commit=commit, sets_alarm=sets_alarm)

    def _write(
        self,
        changes: Changes,
        events: Sequence[Event],
        sends: Sequence[Message] = (),
        records: Sequence[Record] = (),
    ) -> Done:
        """Encode everything, then commit it as one: what cannot be encoded leaves nothing behind."""
        spread, routed = self._bus.spread(events)
        arriving = [message for message in routed if not self._faults.loses()]
        changes.mail = [message.encode() for message in (*sends, *arriving)]
        changes.events = {event.id: event.encode() for event in spread}
        changes.records = [encode_record(record) for record in records]
        numbers = self._store.commit(changes)
        letters = [Letter(Message.decode(data), n) for n, data in zip(numbers, changes.mail, strict=True)]
        return Done(letters, lost=len(arriving) < len(routed))
