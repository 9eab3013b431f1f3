"""The worker program of `mesh prove` with one known fault, which its first argument names."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

from meshwright.core.ids import derived_id, new_id
from meshwright.core.messages import Receipt, TaskRequest
from meshwright.edges.broker.connection import MqttMessage
from meshwright.edges.mqtt.redeliveries import Redeliveries
from meshwright.engine.kernel.timers import Timers
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.writer import ApartDatabase
from meshwright.engine.work.results import ResultOrder
from meshwright.mesh.orchestration import tasks
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.account import LedgerEntry, LedgerReply
from meshwright.money.charging import AccountClient
from meshwright.parts.proving import worker
from tests.support.faults.controls import NO_FENCE, break_on_purpose, task_id_of

UNWRITTEN_EVENTS = "an outbox that is not written"
UNWRITTEN_RECORDS = "a journal record that is dropped"
UNSETTLED_CALLS = "a settlement that is dropped"
DOUBLED_MESSAGES = "a redelivered message that counts as new"
SWALLOWED_MESSAGES = "an equal message that counts as redelivered"
EARLY_RECEIPTS = "a receipt before the task is durable"
FORGOTTEN_KEYS = "a key that makes each try a task of its own"
FORGOTTEN_ALARMS = "alarms that a process forgets as it ends"
UNORDERED_RESULTS = "results handed out in any order"
UNREAD_DIGESTS = "an answer to another question that is taken"
OTHER_ENCODINGS = "the encoding of the role"
PACKET_IDS = "messages known by the number of their packet"
BROKER_FAULTS = {
    DOUBLED_MESSAGES: "acknowledged 1 times, became 2 tasks",
    SWALLOWED_MESSAGES: "acknowledged 2 times, became 1 tasks",
    PACKET_IDS: "acknowledged 1 times, became 2 tasks",
}
"""Words of the complaint about each fault that is seen at a broker; of the last at one that renumbers."""
FAULTS = {
    NO_FENCE: "ended 2 times",
    UNWRITTEN_EVENTS: "has a gap in its outbox",
    UNWRITTEN_RECORDS: "lost: task",
    UNSETTLED_CALLS: "the budget $",
    UNORDERED_RESULTS: "went on with the results",
}
"""Words of the complaint about each fault that needs no kill."""
KILL_FAULTS = {
    EARLY_RECEIPTS: "lost: task",
    FORGOTTEN_KEYS: "lost: task",
    FORGOTTEN_ALARMS: "lost: task",
    UNREAD_DIGESTS: "took an answer to another question",
}
"""The same of faults that a kill shows."""
POSTGRES_FAULTS = {OTHER_ENCODINGS: "is listed as"}
"""The same of faults on PostgreSQL alone."""
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


def give_early_receipts() -> None:
    submit, under_way = Tasks.submit, set[asyncio.Task[Receipt]]()

    async def submit_later(self: Tasks, request: TaskRequest, *args: Any, **options: Any) -> Receipt:
        task = asyncio.create_task(submit(self, request, *args, **options))
        under_way.add(task)
        task_id = task_id_of(options["idempotency_key"])
        return Receipt(task_id=task_id, status="accepted", dispatched_to=str(request.agent_id), score=1.0)

    setattr(Tasks, "submit", submit_later)  # noqa: B010 in this process alone


def forget_keys() -> None:
    submit = Tasks.submit

    async def submit_anew(self: Tasks, *args: Any, idempotency_key: str, **options: Any) -> Receipt:
        return await submit(self, *args, idempotency_key=f"{idempotency_key} {new_id()}", **options)

    setattr(Tasks, "submit", submit_anew)  # noqa: B010 in this process alone


def forget_alarms() -> None:
    def sweep_nothing(self: Timers, now: Any) -> None:
        self._sweep_at = now + timedelta(days=1)

    setattr(Timers, "_sweep", sweep_nothing)  # noqa: B010 in this process alone


def hand_results_out_at_once() -> None:
    async def be_due(self: ResultOrder, name: str) -> None: ...

    setattr(ResultOrder, "turn", be_due)  # noqa: B010 in this process alone


def read_no_digests() -> None:
    setattr(tasks, "check_digest", lambda digest, current: None)  # noqa: B010 in this process alone


def leave_the_encoding() -> None:
    settings = PostgresDatabase._settings

    def settings_of_the_role(self: PostgresDatabase) -> dict[str, Any]:
        return {**settings(self), "client_encoding": "LATIN1"}

    setattr(PostgresDatabase, "_settings", settings_of_the_role)  # noqa: B010 in this process alone


def know_packets_by_number() -> None:
    def is_same(self: Redeliveries, row: Any, delivery: MqttMessage) -> bool:
        return delivery.packet_id == row.delivery.packet_id

    setattr(Redeliveries, "_is_same", is_same)  # noqa: B010 in this process alone


BREAKS = {
    EARLY_RECEIPTS: give_early_receipts,
    FORGOTTEN_KEYS: forget_keys,
    FORGOTTEN_ALARMS: forget_alarms,
    UNORDERED_RESULTS: hand_results_out_at_once,
    UNREAD_DIGESTS: read_no_digests,
    OTHER_ENCODINGS: leave_the_encoding,
    PACKET_IDS: know_packets_by_number,
    UNSETTLED_CALLS: drop_settlements,
    DOUBLED_MESSAGES: double_messages,
    SWALLOWED_MESSAGES: swallow_messages,
}


def main() -> None:
    fault, numbers = sys.argv[1], count(1)
    if fault == NO_FENCE:
        break_on_purpose(fault)
    elif fault in BREAKS:
        BREAKS[fault]()
    elif fault == UNWRITTEN_EVENTS:
        change_batches(lambda *rows: rows if next(numbers) % _EVERY else (*rows[:4], None))
    elif fault == UNWRITTEN_RECORDS:
        change_batches(lambda heads, messages, taken, records, events: (heads, messages, taken, (), events))
    worker.main()


if __name__ == "__main__":
    main()
