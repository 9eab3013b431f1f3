"""The worker program of `mesh prove` with one known fault, which its first argument names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from meshwright.engine.sql.writer import ApartDatabase
from meshwright.money.account import LedgerEntry, LedgerReply
from meshwright.money.charging import AccountClient
from meshwright.parts.proving import worker
from tests.support.faults.controls import NO_FENCE, break_on_purpose

UNWRITTEN_EVENTS = "an outbox that is not written"
UNWRITTEN_RECORDS = "a journal record that is dropped"
UNSETTLED_CALLS = "a settlement that is dropped"
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


def main() -> None:
    fault, numbers = sys.argv[1], count(1)
    if fault == NO_FENCE:
        break_on_purpose(fault)
    elif fault == UNSETTLED_CALLS:
        drop_settlements()
    elif fault == UNWRITTEN_EVENTS:
        change_batches(lambda *rows: rows if next(numbers) % _EVERY else (*rows[:4], None))
    elif fault == UNWRITTEN_RECORDS:
        change_batches(lambda heads, messages, taken, records, events: (heads, messages, taken, (), events))
    worker.main()


if __name__ == "__main__":
    main()
