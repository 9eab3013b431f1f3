"""The oracle: judges a mesh that was killed at random and has come to rest, on any store.

It compares the event log and the stored actors with the records that clients, models and tools kept
themselves, and names each difference. It does not know how a store keeps them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from meshwright.core.events import Event
from meshwright.core.messages import Outcome
from meshwright.engine.events.tasks import TaskSummary, make_title
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef
from meshwright.engine.work.protocol import ORCHESTRATOR, TaskKey
from meshwright.engine.work.record import TaskRecord
from meshwright.mesh.orchestration.acceptance import FINAL

CLAIMS = ("task.started", "task.resumed")
REPEATED = (
    "outcomes of generation",
    "ended 2 times",
    "was journaled",
    "published twice",
    "was called",
    "had its",
)
"""Words of the complaints about something that was done twice."""
ONCE = ("charge",)
"""The tools that must not have their effect twice."""


@dataclass(frozen=True)
class RunCosts:
    """The cost of a run in dollars, by each of its three counts."""

    provider: Decimal
    """The price of all calls that reached it."""
    ledger: Decimal
    """The sum of the calls in the log."""
    estimated: Decimal
    """The share of the ledger for calls that were cut off."""
    budget: Decimal
    """The amount that the budget's account has settled."""


@dataclass(frozen=True)
class Evidence:
    """The records of a run that the oracle judges."""

    accepted: Sequence[str]
    """Ids of the tasks whose acceptance a client saw and recorded."""
    reported: Sequence[tuple[str, str]]
    """(task id, status) of the outcomes that clients got."""
    events: Sequence[Event]
    """The whole log, in order of `seq`."""
    heads: Mapping[ActorRef, ActorRecord]
    """The stored records of all actors."""
    undelivered: int
    """Messages that were sent and not processed."""
    summaries: Sequence[TaskSummary]
    """The list of tasks, which is made from the log."""
    model_calls: int = 0
    """Calls that reached the model."""
    called: Sequence[tuple[str, int, int]] = ()
    """(task id, attempt, step) of each call of the model, as the model recorded them."""
    effects: Sequence[tuple[str, str]] = ()
    """(text of a task, tool) of each effect, as the tools recorded them."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The text that a client sent with each task, by the id that it got; no other request has it."""
    swaps: Sequence[tuple[str, Any, Any]] = ()
    """(task id, results, other results) of each run that went on with other results than it had before."""
    misplaced: Sequence[str] = ()
    """Ids of the tasks that took an answer to another question than theirs."""
    charges: Sequence[tuple[str, int]] = ()
    """(text of a task, process) of each charge that began, as the tool recorded them."""
    interrupted: Mapping[int, float] | None = None
    """When each process was first killed or frozen, by its id; None if that is not known."""
    money: RunCosts | None = None
    """The cost of the run; None if its calls cost nothing."""
    kills: int = 0
    """Processes that were killed, and connections that were cut."""
    frozen_workers: int = 0
    """Workers that hung beyond their lease: others have repeated their work since."""
    max_in_flight: int = 0
    """Runs that could be under way at once, of all agents."""
    processed_ids: Collection[str] | None = None
    """Ids of the messages that actors have processed; None where the store does not remember them all."""
    in_order: bool = True
    """Whether the log has the events of different actors in the order in which they happened."""

    def select_events(self, *event_types: str) -> list[Event]:
        """The events of these types, in order."""
        return [event for event in self.events if event.event_type in event_types]


def complaints(evidence: Evidence) -> list[str]:
    """Return a sentence for each broken promise."""
    checks = (
        *(_check_outcomes, _check_reports, _check_outboxes, _check_fences, _check_threads),
        *(_check_calls, _check_repeats, _check_costs, _check_rest, _check_lists),
        *(_check_texts, _check_questions),
    )
    return [complaint for check in checks for complaint in check(evidence)]


def _check_outcomes(evidence: Evidence) -> Iterator[str]:
    """Accepted = outcomes, one each per generation."""
    ends = Counter[str]()
    generations = Counter[tuple[str, int]]()
    for event in evidence.select_events(*FINAL):
        outcome = parse_outcome(event)
        ends[outcome.task_id] += 1
        generations[outcome.task_id, outcome.generation] += 1
    logged_ids = {event.task_id or "" for event in evidence.select_events("task.accepted", "task.dispatched")}
    for task_id in sorted({*evidence.accepted, *logged_ids}):
        if not ends[task_id]:
            yield f"lost: task {task_id} was accepted and has no outcome"
    for (task_id, generation), count in generations.items():
        if count > 1:
            yield f"task {task_id} has {count} outcomes of generation {generation}"
    for task_id, count in Counter(evidence.accepted).items():
        if count > 1:
            yield f"task {task_id} was accepted {count} times under different keys"


def _check_reports(evidence: Evidence) -> Iterator[str]:
    recorded = {event.task_id: parse_outcome(event).status for event in evidence.select_events(*FINAL)}
    for task_id, status in evidence.reported:
        if recorded.get(task_id) != status:
            yield f"a client was told that {task_id} {status}, the log has {recorded.get(task_id)}"


def _check_outboxes(evidence: Evidence) -> Iterator[str]:
    """Each actor's numbers run 1..n, each once, and its head knows how many there are."""
    numbered: defaultdict[str, dict[int, Event]] = defaultdict(dict)
    for event in evidence.events:
        number = event_number(event)
        if number is not None:
            if number in numbered[event.aggregate_id]:
                yield f"{event.id} was published twice"
            numbered[event.aggregate_id][number] = event
    for ref, head in evidence.heads.items():
        events = numbered.pop(str(ref), {})
        if max(events, default=0) > head.sent:
            yield f"{ref} published number {max(events)}, its head knows of {head.sent}"
        for number in range(1, head.sent + 1):
            if number not in events and not _is_message(ref, number, events, evidence.processed_ids):
                yield f"{ref} has a gap in its outbox at {number}"
    for aggregate_id in numbered:
        yield f"{aggregate_id} has published events, and no head"


def _is_message(
    ref: ActorRef, number: int, events: Mapping[int, Event], taken: Collection[str] | None
) -> bool:
    """Whether a number without an event went to a message, which its receiver has taken."""
    return _was_message(number, events) if taken is None else f"{ref}/{number}" in taken


def _was_message(number: int, events: Mapping[int, Event]) -> bool:
    """Whether a number without an event went to a message to another actor: the events beside it say so.

    A thread sends a delegated task before it says that it waits, and takes it back before it ends as
    cancelled. Before it ends it sends what was said to its conversation, or takes back what stands open
    there, and it stops a deadline, or lets it go on, after a wait for a person begins or ends. A task has
    its thread cancelled after it says so, or before it gives up at its deadline, and answers its parent once
    it has ended, and again each time that the parent asks as it recovers.
    """
    before, after = events.get(number - 1), events.get(number + 1)
    if after is not None and after.event_type == "task.waiting":
        return "child_task_id" in after.payload
    if after is not None and after.event_type == "attempt.ended":
        return True
    if before is not None and before.event_type in ("task.waiting", "wait.ended"):
        return before.payload["kind"] in ("person", "money")
    if after is not None and after.event_type == "task.dead_lettered":
        return True
    last = max((earlier for earlier in events if earlier < number), default=None)
    if last is not None and events[last].event_type in FINAL:
        return _is_delegated(events.values())
    return before is not None and before.event_type == "task.cancelling"


def _is_delegated(events: Iterable[Event]) -> bool:
    """Whether these are the events of a task with a parent. One that is refused was never accepted."""
    accepted = [event for event in events if event.event_type == "task.accepted"]
    return not accepted or accepted[0].payload["parent_task_id"] is not None


def _check_fences(evidence: Evidence) -> Iterator[str]:
    """Only fenced commits: fences rise one by one, who holds the last may commit, an attempt ends once."""
    last = Counter[str]()
    for event in evidence.select_events(*CLAIMS):
        fence = event.payload["fence"]
        if fence != last[event.aggregate_id] + 1:
            yield f"{event.id} claims fence {fence} after {last[event.aggregate_id]}"
        last[event.aggregate_id] = fence
    ends = [parse_outcome(event) for event in evidence.select_events("attempt.ended")]
    cancelled = {end.task_id for end in ends if end.status == "cancelled"}  # whoever may claim it ends that
    let_go = set[tuple[str, str | None]]()
    for event in evidence.select_events(*CLAIMS, "attempt.ended", "task.waiting", "work.discarded"):
        work = event.aggregate_id, event.task_id
        if event.event_type in CLAIMS:
            let_go.discard(work)
        elif event.event_type != "work.discarded":
            if not event.fields.get("running"):
                let_go.add(work)
        elif work in let_go:
            continue  # a worker whose connection ended makes its commit again, which had been written
        elif event.payload["fence"] == event.payload["current"] and event.task_id not in cancelled:
            yield f"{event.id} discards a commit of the worker that held the fence"
    ended = Counter(map(_attempt_key, ends))
    for (task_id, generation, attempt), count in ended.items():
        if count > 1:
            yield f"attempt {attempt} at task {task_id} (generation {generation}) ended {count} times"


def _check_threads(evidence: Evidence) -> Iterator[str]:
    """Tasks of one thread run one at a time, in the order in which they were dispatched."""
    under_way: dict[str, str | None] = {}
    begun: defaultdict[str, list[tuple[str | None, int]]] = defaultdict(list)
    for event in evidence.select_events(*CLAIMS, "task.waiting", "attempt.ended"):
        thread = event.aggregate_id
        if event.event_type in CLAIMS and under_way.get(thread) not in (None, event.task_id):
            yield f"{event.id} began while task {under_way[thread]} of the same thread ran"
        under_way[thread] = event.task_id if event.event_type in CLAIMS else None
        if event.event_type == "task.started":
            begun[thread].append((event.task_id, event.payload["attempt"]))
    places = {
        (event.task_id, event.payload["attempt"]): place
        for place, event in enumerate(evidence.select_events("task.dispatched"))
    }
    for thread, attempts in begun.items() if evidence.in_order else ():
        if attempts != sorted(attempts, key=lambda attempt: places.get(attempt, -1)):
            yield f"tasks of {thread} did not begin in the order of their arrival"


def _check_calls(evidence: Evidence) -> Iterator[str]:
    """Model calls <= steps + calls cut short + kills x runs in flight, and no step journaled twice."""
    steps = Counter(
        (event.aggregate_id, event.task_id, event.payload["attempt"], event.payload["step"])
        for event in evidence.select_events("model.called")
        if event.payload["outcome"] == "ok"
    )
    for step, count in steps.items():
        if count > 1 + evidence.frozen_workers:
            yield f"step {step} was journaled {count} times"
    ends = map(parse_outcome, evidence.select_events("attempt.ended"))
    cut_short = sum(end.status in ("cancelled", "timed_out") for end in ends)
    if evidence.model_calls > len(steps) + cut_short + evidence.kills * evidence.max_in_flight:
        yield (
            f"{evidence.model_calls} model calls for {len(steps)} steps, {cut_short} of them cut short, "
            f"{evidence.kills} kills and {evidence.max_in_flight} runs in flight"
        )
    if evidence.model_calls < len(steps):
        yield f"{len(steps)} steps of {evidence.model_calls} model calls: some were made up"


def _check_repeats(evidence: Evidence) -> Iterator[str]:
    """Each claim calls the model of a step once at most, and what must not be repeated was not."""
    claims = Counter[tuple[Any, ...]](
        (event.task_id, event.payload["attempt"]) for event in evidence.select_events(*CLAIMS)
    )
    for (task_id, attempt, step), count in Counter[tuple[Any, ...]](map(tuple, evidence.called)).items():
        if count > claims[task_id, attempt]:
            claimed = claims[task_id, attempt]
            yield f"step {step} of task {task_id} was called {count} times in {claimed} claims"
    for (key, tool), count in Counter(map(tuple, evidence.effects)).items():
        if tool in ONCE and count > 1:
            yield f"{tool} of {key!r} had its effect {count} times"


def _check_costs(evidence: Evidence) -> Iterator[str]:
    """Ledger and budget agree, and have what the provider counted: all of it, each call once."""
    if (money := evidence.money) is None:
        return
    if money.budget != money.ledger:
        yield f"the ledger has ${money.ledger}, the budget ${money.budget}"
    if money.ledger - money.estimated > money.provider:
        counted = f"${money.ledger} without ${money.estimated} of estimates"
        yield f"a call was counted twice: the ledger has {counted}, the provider ${money.provider}"
    if money.ledger < money.provider:
        yield f"a call was not counted: the ledger has ${money.ledger}, the provider ${money.provider}"
    recorded = Counter[tuple[Any, ...]](
        (event.task_id, event.payload["attempt"]) for event in evidence.select_events("model.called")
    )
    # By attempt: of calls side by side a cut one may count at another step.
    calls = Counter[tuple[Any, ...]]((task_id, attempt) for task_id, attempt, _ in evidence.called)
    for (task_id, attempt), count in calls.items():
        if count > (counted := recorded[task_id, attempt]):
            yield f"{count} calls of task {task_id} were made in attempt {attempt}, and {counted} recorded"


def _check_rest(evidence: Evidence) -> Iterator[str]:
    """Nothing is left open: no obligation, no alarm, no message."""
    for ref, head in evidence.heads.items():
        if head.has_pending_work:
            yield f"{ref} still has something outstanding"
        elif head.wake_at is not None:
            yield f"{ref} has ended and would be woken at {head.wake_at}"
    if evidence.undelivered:
        yield f"{evidence.undelivered} messages were sent and never taken"


def _check_lists(evidence: Evidence) -> Iterator[str]:
    """The list of tasks says what their heads say."""
    records = task_records(evidence)
    listed = {summary.task_id: summary for summary in evidence.summaries}
    for task_id in sorted(records.keys() ^ listed.keys()):
        yield f"task {task_id} is {'not listed' if task_id in records else 'listed, and has no head'}"
    for task_id in records.keys() & listed.keys():
        record, summary = records[task_id], listed[task_id]
        attempts = max(1, len(record.attempts))  # that of its outcome, where nobody could try
        if (record.status, attempts) != (summary.status, summary.attempts):
            yield (
                f"task {task_id} is {record.status} after {attempts} attempts, "
                f"listed as {summary.status} after {summary.attempts}"
            )


def _check_texts(evidence: Evidence) -> Iterator[str]:
    """Each request became one task, which has its text, also in lists."""
    records = task_records(evidence)
    stored = {
        task_id: str(record.task.payload.get("text"))
        for task_id, record in records.items()
        if record.task is not None
    }
    for task_id, text in evidence.texts.items():
        if stored.get(task_id, text) != text:
            yield f"task {task_id} was sent as {text!r}, and is stored as {stored[task_id]!r}"
    for summary in evidence.summaries:
        text = evidence.texts.get(summary.task_id, "")
        if text and summary.title != make_title(text):
            yield f"task {summary.task_id} was sent as {text!r}, and is listed as {summary.title!r}"
    own = {*evidence.texts.values()}
    for text, count in Counter(text for text in stored.values() if text in own).items():
        if count > 1:
            yield f"{count} tasks were made of the one request {text!r}"


def _check_questions(evidence: Evidence) -> Iterator[str]:
    """A run goes on with the results that it had, and people are asked only about what was interrupted."""
    for task_id, results, others in evidence.swaps:
        yield f"task {task_id} went on with the results {others} where it had {results}"
    for task_id in evidence.misplaced:
        yield f"task {task_id} took an answer to another question"
    if evidence.interrupted is None:
        return
    processes = dict(evidence.charges)
    for event in evidence.select_events("task.waiting"):
        process = processes.get(evidence.texts.get(event.task_id or "", ""))
        if event.payload["kind"] != "person" or process is None:
            continue
        if evidence.interrupted.get(process, math.inf) > event.time.timestamp():
            yield f"a person was asked about a charge of task {event.task_id}, whose process ran on"


def event_number(event: Event) -> int | None:
    """Return the number of an event in its actor's outbox; None for a step's, or one from outside."""
    own = event.id.removeprefix(f"{event.aggregate_id}/")
    return int(own) if own != event.id and own.isdecimal() else None


def parse_outcome(event: Event) -> Outcome:
    """Return the outcome in an event."""
    return event.payload if isinstance(event.payload, Outcome) else Outcome.model_validate(event.payload)


def _attempt_key(outcome: Outcome) -> tuple[str, int, int]:
    return outcome.task_id, outcome.generation, outcome.attempt


def task_records(evidence: Evidence) -> dict[str, TaskRecord]:
    """Return the stored record of each task by its id."""
    return {
        TaskKey.from_ref(ref).task_id: TaskRecord.model_validate_json(head.state)
        for ref, head in evidence.heads.items()
        if ref.type == ORCHESTRATOR
    }
