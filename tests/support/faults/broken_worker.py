"""The worker program of `mesh prove` with one known fault, which its first argument names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from meshwright.core.ids import derived_id
from meshwright.edges.broker.connection import MqttMessage
from meshwright.edges.mqtt.redeliveries import Redeliveries
from meshwright.engine.sql.writer import ApartDatabase
from meshwright.money.account import LedgerEntry, LedgerReply
from meshwright.money.charging import AccountClient
from meshwright.parts.proving import worker
from tests.support.faults.controls import NO_FENCE, break_on_purpose

UNWRITTEN_EVENTS = "an outbox that is not written"
UNWRITTEN_RECORDS = "a journal record that is dropped"
UNSETTLED_CALLS = "a settlement that is dropped"
DOUBLED_MESSAGES = "a redelivered message that counts as new"
SWALLOWED_MESSAGES = "an equal message that counts as redelivered"
BROKER_FAULTS = {
    DOUBLED_MESSAGES: "acknowledged 1 times, became 2 tasks",
    SWALLOWED_MESSAGES: "acknowledged 2 times, became 1 tasks",
}
"""Words of the complaint about each fault that is seen at a broker."""
FAULTS = {
    NO_FENCE: "ended 2 times",
    UNWRITTEN_EVENTS: "has a gap in its outbox",
    UNWRITTEN_RECORDS: "lost: task",
    UNSETTLED_CALLS: "the budget $",
}
"""Words of the complaint about each fault."""
_EVERY = 5


def change_batches(change: Callable[..., tuple[Any, ...]]) -> None:
    """Change what each batch of a store writes."""
    submit = ApartDatabase.submit

    def submit_changed(self: ApartDatabase, function: Any, args: tuple[Any, ...], *rest: Any) -> None:
        submit(self, function, change(*args) if function.__name__ == "write_batch" else args, *rest)

    setattr(ApartDatabase, "submit", submit_changed)  # noqa: B010 in this process alone


def drop_settlements() -> None:
    book, numbers = AccountClient._book, count()

    async def book_some(self: AccountClient, entries: tuple[LedgerEntry, ...]) -> LedgerReply:
        kept = tuple(entry for entry in entries if entry.kind != "settle" or next(numbers) % _EVERY)
        return await book(self, kept)

    setattr(AccountClient, "_book", book_some)  # noqa: B010 in this process alone


def double_messages() -> None:
    def take_for_new(self: Redeliveries, delivery: MqttMessage) -> None: ...

    setattr(Redeliveries, "receive", take_for_new)  # noqa: B010 in this process alone


def swallow_messages() -> None:
    async def name_by_content(self: Redeliveries, delivery: MqttMessage, tenant_id: str) -> str:
        return derived_id(delivery.digest())

    setattr(Redeliveries, "task_id", name_by_content)  # noqa: B010 in this process alone


def main() -> None:
    fault, numbers = sys.argv[1], count(1)
    if fault == NO_FENCE:
        break_on_purpose(fault)
    elif fault == UNSETTLED_CALLS:
        drop_settlements()
    elif fault == DOUBLED_MESSAGES:
        double_messages()
    elif fault == SWALLOWED_MESSAGES:
        swallow_messages()
    elif fault == UNWRITTEN_EVENTS:
        change_batches(lambda *rows: rows if next(numbers) % _EVERY else (*rows[:4], None))
    elif fault == UNWRITTEN_RECORDS:
        change_batches(lambda heads, messages, taken, records, events: (heads, messages, taken, (), events))
    worker.main()


if __name__ == "__main__":
    main()
