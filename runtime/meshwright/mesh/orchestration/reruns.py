"""Work that is done again: which tasks may be, and where they begin; and how it went with each of many."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from meshwright.core.encoding import Struct
from meshwright.core.errors import Conflict
from meshwright.core.ids import new_id
from meshwright.core.messages import Caller, Fault, ForkedFrom, Outcome, Task, TaskStatus
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.earlier_records import changes_before, read_continued, read_origin
from meshwright.engine.work.protocol import Begin, EndedAttempt, steps_stream
from meshwright.engine.work.record import Attempt, TaskRecord, journal_names, thread_ref
from meshwright.mesh.orchestration.scoring import must_start_over

ERASED_HASH = "erased"
_MAX_ATTEMPTS = 100  # of all generations: the record has them all


class RetryResult(Struct):
    """A task that is worked on again, or would be: where it `begin`s, and how many finished steps it keeps.

    `error` is why it had failed, `agent_id` the agent that goes on with it (None: the best), `generation` the
    number of the work, `attempt` that of the attempt whose journal it goes on with. `refused` is why it isn't
    worked on again.
    """

    schema_name = "Again"
    task_id: str
    begin: Begin
    generation: int
    steps_kept: int = 0
    attempt: int | None = None
    agent_id: str | None = None
    error: Fault | None = None
    is_dry: bool = False
    refused: Fault | None = None


class RetryPage(Struct):
    """The tasks of a page that are worked on again, or not; `cursor` asks for those that follow."""

    schema_name = "AgainPage"
    items: tuple[RetryResult, ...]
    cursor: str | None = None


class CancelResult(Struct):
    """A task that ends, or would: its `status` now. `refused` is why it isn't cancelled."""

    schema_name = "Cancelled"
    task_id: str
    status: TaskStatus
    agent_id: str | None = None
    is_dry: bool = False
    refused: Fault | None = None


class CancelPage(Struct):
    """The tasks of a page that end, or not; `cursor` asks for those that follow."""

    items: tuple[CancelResult, ...]
    cursor: str | None = None


class AnswerResult(Struct):
    """A question that was answered, or would be. `refused` is why it isn't, such as another's answer."""

    schema_name = "Answered"
    id: str
    task_id: str
    wait_id: str
    kind: str
    question: str = ""
    is_dry: bool = False
    refused: Fault | None = None


class AnswerPage(Struct):
    """The questions of a page that were answered, or not; `cursor` asks for those that follow."""

    items: tuple[AnswerResult, ...]
    cursor: str | None = None


class ForkResult(Struct):
    """A task that goes on from a step of another, or would (`is_dry`: it has no id then).

    `steps_kept` is how many finished steps it begins behind, `agent_id` the agent that goes on.
    """

    schema_name = "Forked"
    task_id: str | None
    forked_from: ForkedFrom
    agent_id: str
    steps_kept: int
    is_dry: bool = False


def check_again(task_id: str, record: TaskRecord) -> Outcome:
    """Returns how a task ended. Raises Conflict where there is nothing to work on again."""
    outcome = record.outcome
    if outcome is None or outcome.success:
        raise Conflict(
            f"Task {task_id} {'is still open' if outcome is None else 'has succeeded'}",
            remedy="Only a task that failed, timed out or was cancelled is worked on again",
        )
    if record.request_hash == ERASED_HASH:
        raise Conflict(f"The contents of task {task_id} were erased", remedy="Submit it as a new task")
    if len(record.attempts) >= _MAX_ATTEMPTS:
        raise Conflict(
            f"Task {task_id} has had {len(record.attempts)} attempts, and may have no more",
            remedy="Submit it as a new task",
        )
    return outcome


def choose_begin(outcome: Outcome, begin: Begin | None, attempts: list[Attempt]) -> Begin:
    """Returns where work begins: where it is asked to, else where its fault says, and its steps are."""
    if not attempts:
        return "start"
    return begin or ("start" if must_start_over(outcome) else "journal")


async def plan_again(
    runtime: Runtime, task_id: str, record: TaskRecord, begin: Begin | None, keep: timedelta | None
) -> RetryResult:
    """Returns how a task would be worked on again; its steps were deleted once they are older than `keep`.

    Raises Conflict where it can't be.
    """
    outcome, task = check_again(task_id, record), record.task
    assert task is not None
    begin = choose_begin(outcome, begin, record.attempts)
    generation = task.generation + 1
    if begin == "start":
        return RetryResult(
            task_id=task_id, begin=begin, generation=generation, agent_id=task.agent_id, error=outcome.error
        )
    if keep is not None and outcome.completed_at < runtime.clock.now() - keep:
        raise Conflict(
            f"The finished steps of task {task_id} were deleted, {keep.days} days after its end",
            remedy="Let it begin at the start (--from start), or keep them longer (keep_contents_days)",
        )
    ref, last = thread_ref(record, task), record.attempts[-1]
    assert ref is not None
    finished, _ = await steps_kept(runtime, ref, journal_names(task_id, record.attempts, last.attempt))
    return RetryResult(
        task_id=task_id,
        begin=begin,
        generation=generation,
        steps_kept=len(finished),
        attempt=last.attempt,
        agent_id=last.agent_id,
        error=outcome.error,
    )


async def steps_kept(runtime: Runtime, ref: ActorRef, journals: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """The paths of the steps that are finished and stay, and of those in doubt: a person decides on them.

    A step that its caller gave up is not in doubt: it is given up again.
    """
    records = [record.value for steps in journals for record in await read_continued(runtime, ref, steps)]
    finished = {value["path"] for value in records if "path" in value and "result" in value}
    orders = [pair for value in records for pair in value.get("order", {}).items()]
    given_up = {
        f"{place}{name}."
        for prefix, order in orders
        for name in order.get("given_up", ())
        for place in ("", prefix)  # steps are named by their paths, branches by their names in the scope
    }
    begun = {value["path"] for value in records if "intent" in value}
    return finished, {path for path in begun - finished if not f"{path}.".startswith(tuple(given_up))}


async def asks_to_start_over(runtime: Runtime, record: TaskRecord, task: Task) -> bool:
    """Whether a person decides before a task starts over by its fault: it may have changed something."""
    if (ref := thread_ref(record, task)) is None:
        return False
    attempts = [
        EndedAttempt(
            attempt=one.attempt,
            agent_id=one.agent_id,
            steps=steps_stream(task.task_id, one.generation, one.attempt),
            changed=one.changed,
        )
        for one in record.attempts
    ]
    return bool(await changes_before(runtime, ref, attempts))


async def plan_fork(
    runtime: Runtime, task_id: str, record: TaskRecord, step: str, attempt: int | None
) -> ForkResult:
    """Returns how a task would go on from a step of an attempt, by default of the last.

    Raises Conflict for a task that is open or was erased, and what `read_origin` raises.
    """
    task = record.task
    assert task is not None
    if record.is_open:
        raise Conflict(
            f"Task {task_id} is still open, and its steps may yet be more",
            remedy="Wait for its end, or cancel it",
        )
    if record.request_hash == ERASED_HASH:
        raise Conflict(f"The contents of task {task_id} were erased", remedy="Submit it as a new task")
    number = len(record.attempts) if attempt is None else attempt
    origin = ForkedFrom(task_id=task_id, step=step, attempt=number, first_task_id=task.first_task_id)
    path, records = await read_origin(runtime, task.tenant_id, origin)
    return ForkResult(
        task_id=None,
        forked_from=replace(origin, step=path),
        agent_id=record.attempts[number - 1].agent_id,
        steps_kept=len({record.value["path"] for record in records if "result" in record.value}),
        is_dry=True,
    )


def make_fork(task: Task, plan: ForkResult, caller: Caller, now: datetime, deadline: float | None) -> Task:
    """A new task of a caller that does what another did, from a step on, in a thread of its own."""
    task_id = new_id()
    span = task.deadline_at - task.created_at if deadline is None else timedelta(seconds=deadline)
    return replace(
        task,
        task_id=task_id,
        agent_id=plan.agent_id,
        thread_id=task_id,
        requested_by=caller.requested_by,
        budgets=caller.budgets,
        budgets_above=(),
        idempotency_key=None,
        parent=None,
        family="",
        chain=(),
        generation=1,
        created_at=now,
        deadline_at=now + span,
        traceparent=None,
        after=None,
        forked_from=plan.forked_from,
    )
