"""Calls that a crash cut off hold no money of a task that has ended, on every store."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from meshwright.agents.run.earlier_changes import settle_calls
from meshwright.agents.run.lost_calls import add_lost_calls
from meshwright.core.errors import HostError, StoreUnavailable
from meshwright.core.messages import Usage
from meshwright.core.money import ZERO, Budget, Price
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work import Journal, Work, worker
from meshwright.engine.work.claims import Settler, SettleResult
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.port import Call, CallContext, ModelReply, ModelRequest, OnDelta
from meshwright.models.prices import Prices
from meshwright.money.account import Account
from meshwright.money.accounting import Accounting
from meshwright.money.balance import Balance
from meshwright.money.budgets import Budgets
from meshwright.money.charging import AccountClient
from meshwright.money.costs import UsualCall
from tests.support.harness import STEADY
from tests.support.worker_pool import Shift, StartWorkers, WorkerPool

pytestmark = pytest.mark.parametrize("harness", STEADY, indirect=True)  # no fault restarts it besides

PRICES = Prices(default=Price(input=ZERO, output=Decimal(1_000_000)), listed=dict)
POT = Budget(name="pot", limit_usd=Decimal(100))
ACCOUNT = Account(budget="pot", scope="mesh", key="mesh", limit_usd=Decimal(100))
MAX_TOKENS = 8
ESTIMATE = 2  # dollars of a call, before any was answered
COST = 3  # of one that is answered


class Held:
    """A provider that answers once the test lets it."""

    name = "held"

    def __init__(self, shift: Shift) -> None:
        self._shift = shift

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        await self._shift.pool.begin(f"{self._shift.task_id} call")
        return ModelReply(model="held-1", usage=Usage(completion_tokens=COST))

    async def close(self) -> None: ...


def settler(runtime: Runtime, faults: Sequence[HostError] = ()) -> Settler:
    """Settles on a host, where an attempt may have changed something; the first times it fails."""
    budgets, left = Budgets([POT], runtime), [*faults]

    async def settle(ref: ActorRef, work: Work, *, is_over: bool = False) -> SettleResult:
        if left:
            raise left.pop()
        estimated_usd = await settle_calls(runtime, budgets, ref, work)
        return SettleResult(True, estimated_usd, cost_usd=estimated_usd if is_over else None)

    return settle


def settler_without_budget(runtime: Runtime, budgets: Budgets | None = None) -> Settler:
    """Settles on a host without a budget; the first time it fails once the calls are recorded."""
    left = [StoreUnavailable("the store is away")]

    async def usual_call(agent_id: str) -> UsualCall:
        return UsualCall("held-1", Decimal(ESTIMATE))

    async def settle(ref: ActorRef, work: Work, *, is_over: bool = False) -> SettleResult:
        if is_over:
            journal = await Journal.open(runtime, ref, work)
            await add_lost_calls(journal, ref, work, (), budgets=budgets, usual_call=usual_call)
            await journal.confirm()
            if left:
                raise left.pop()
        return SettleResult(False)

    return settle


async def pays_without_budget(shift: Shift) -> str:
    await shift.pay("call")
    return "done"


async def calls_once(shift: Shift) -> str:
    """Calls a model, in the first claim alone."""
    if shift.work.claim == 0 or shift.task_id == "again":
        await call(shift)
    return "done"


async def calls_and_works(shift: Shift) -> str:
    await call(shift)
    return await shift.do("work")


PARKED = timedelta(hours=1)


async def call(shift: Shift, parked: timedelta | None = None) -> None:
    model = Accounting(Held(shift), Budgets([POT], shift.pool.runtime), PRICES, lambda call: None)
    task, made = shift.work.task, list[str]()
    async with shift.journal.open_step("model", {}, paid=True) as step:
        if parked is not None:
            await shift.journal.park("provider", "away", shift.pool.runtime.clock.now() + parked)

        def record(call: Call) -> None:
            made.append(call.call_id)
            if call.outcome != "ok":
                return  # a process that is killed records nothing
            assert call.settlement is not None
            known = {"settlement": call.settlement.model_dump()}
            step.add_call(known, ProgressEvent.from_payload(call.payload(), call.call_id))

        context = CallContext(
            task_id=task.task_id,
            tenant_id=task.tenant_id,
            generation=task.generation,
            attempt=shift.work.dispatch.attempt,
            path=step.key.path,
            record=record,
        )
        request = ModelRequest(messages=(), user="helper", max_tokens=MAX_TOKENS, context=context)
        await model.complete(request)
        step.finish("answered")
    await shift.journal.confirm()
    model.budgets.book(made)
    await model.budgets.settled()


async def balance(pool: WorkerPool) -> tuple[Decimal, Decimal]:
    state = await pool.runtime.read(ACCOUNT.ref)
    assert isinstance(state, Balance)
    return state.spent, state.reserved


async def cut_off(pool: WorkerPool, task_id: str) -> None:
    """End the process of a task while its call is under way."""
    pool.hold(f"{task_id} call")
    await pool.submit(task_id)
    await pool.has_begun(f"{task_id} call")
    assert await balance(pool) == (0, MAX_TOKENS)
    await pool.crash()


async def rows(pool: WorkerPool, count: int) -> list[tuple[str, Decimal]]:
    """The events of cut calls, of which there are so many."""
    await pool.until(lambda: len(pool.events("model.called")) >= count)
    return [
        (event.payload["outcome"], Decimal(event.payload["cost_usd"]))
        for event in pool.events("model.called")
    ]


async def cancel_while_the_worker_is_gone(pool: WorkerPool) -> None:
    """Let a worker go in a call, and the task be cancelled before there is another."""
    pool.holds_work = True
    pool.hold("t1 call")
    await pool.submit("t1")
    await pool.has_begun("t1 call")
    await pool.crash()
    await pool.cancel("t1")
    pool.worker.begin()
    assert (await pool.outcome("t1")).status == "cancelled"


async def test_nothing_stays_reserved_of_a_task_that_ends_its_process_three_times(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(calls_once, settle=settler)
    await cut_off(pool, "again")
    for times in (2, 3):
        await pool.has_begun("again call", times)
        await pool.crash()
    outcome = await pool.outcome("again")
    assert outcome.error is not None
    assert (outcome.error.type, outcome.changed) == ("BrokeOff", True)
    assert outcome.cost_usd == 3 * ESTIMATE
    assert await balance(pool) == (3 * ESTIMATE, 0)
    assert await rows(pool, 3) == [("cut", ESTIMATE)] * 3


async def test_calls_without_a_budget_of_a_task_that_ends_its_process_three_times_are_rows_once_each(
    start_workers: StartWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BROKEN_OFF_RETRY_SECONDS", 0.05)
    pool = await start_workers(pays_without_budget, settle=settler_without_budget)
    pool.hold("t1 call")
    await pool.submit("t1")
    for times in (1, 2, 3):
        await pool.has_begun("t1 call", times)
        await pool.crash()
    outcome = await pool.outcome("t1")
    assert outcome.error is not None
    assert outcome.error.type == "BrokeOff"
    assert await rows(pool, 3) == [("cut", ESTIMATE)] * 3


async def test_a_call_without_a_budget_of_a_task_that_is_cancelled_while_its_worker_is_gone_is_a_row(
    start_workers: StartWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BROKEN_OFF_RETRY_SECONDS", 0.05)
    pool = await start_workers(pays_without_budget, settle=settler_without_budget)
    await cancel_while_the_worker_is_gone(pool)
    assert await rows(pool, 1) == [("cut", ESTIMATE)]


@pytest.mark.parametrize(
    "budget", [POT, Budget(name="few", limit_usd=Decimal(100), of="somebody", scope="agent")]
)
async def test_a_call_that_no_account_holds_was_not_made_where_one_holds_each(
    start_workers: StartWorkers, monkeypatch: pytest.MonkeyPatch, budget: Budget
) -> None:
    """The worker was gone before it had reserved: the ledger had a row that the budget lacked."""
    monkeypatch.setattr(worker, "BROKEN_OFF_RETRY_SECONDS", 0.05)

    def settler_beside(runtime: Runtime) -> Settler:
        return settler_without_budget(runtime, Budgets([budget], runtime))

    pool = await start_workers(pays_without_budget, settle=settler_beside)
    await cancel_while_the_worker_is_gone(pool)
    made = 0 if budget is POT else 1
    assert await rows(pool, made) == [("cut", ESTIMATE)] * made


async def test_a_task_that_breaks_off_while_the_accounts_are_away_ends_once_they_are_back(
    start_workers: StartWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BROKEN_OFF_RETRY_SECONDS", 0.05)
    away = [StoreUnavailable("the store is away")] * 2
    pool = await start_workers(calls_once, settle=lambda runtime: settler(runtime, away))
    await cut_off(pool, "again")
    for times in (2, 3):
        await pool.has_begun("again call", times)
        await pool.crash()
    outcome = await pool.outcome("again")
    assert outcome.error is not None
    assert outcome.error.type == "BrokeOff"
    assert await balance(pool) == (3 * ESTIMATE, 0)


async def test_nothing_stays_reserved_of_a_task_that_is_cancelled_while_its_worker_is_gone(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(calls_once, settle=settler)
    pool.holds_work = True
    await cut_off(pool, "t1")
    await pool.cancel("t1")
    pool.worker.begin()
    outcome = await pool.outcome("t1")
    assert (outcome.status, outcome.changed) == ("cancelled", True)
    assert await balance(pool) == (ESTIMATE, 0)
    assert await rows(pool, 1) == [("cut", ESTIMATE)]


async def test_nothing_stays_reserved_of_a_task_that_does_not_make_its_call_again(
    start_workers: StartWorkers,
) -> None:
    pool = await start_workers(calls_once, settle=settler)
    await cut_off(pool, "t1")
    outcome = await pool.outcome("t1")
    assert (outcome.text, outcome.changed) == ("done", False)
    assert outcome.cost_usd == ESTIMATE
    assert await balance(pool) == (ESTIMATE, 0)
    assert await rows(pool, 1) == [("cut", ESTIMATE)]


async def is_parked_once_cut_off(shift: Shift) -> str:
    """Calls a model; cut off it waits for a provider first, and one named "again" repeats its call then."""
    if shift.work.claim == 2 and shift.task_id != "again":
        return "done"
    await call(shift, PARKED if shift.work.claim == 1 else None)
    return "done"


@pytest.mark.parametrize(("task_id", "spent"), [("again", 2 * COST), ("t1", ESTIMATE)])
async def test_the_cost_of_a_run_that_was_parked_has_the_cut_calls_that_it_made_again(
    start_workers: StartWorkers, task_id: str, spent: int
) -> None:
    pool = await start_workers(is_parked_once_cut_off, settle=settler)
    await cut_off(pool, task_id)
    pool.let_go(f"{task_id} call")
    assert (await pool.waiting(task_id))["kind"] == "provider"
    assert await balance(pool) == (ESTIMATE, 0), "what waits holds no money"
    await pool.answer(task_id, None)
    outcome = await pool.outcome(task_id)
    assert outcome.text == "done"
    assert outcome.cost_usd == (0 if task_id == "again" else ESTIMATE), "its run reports no cost"
    assert await balance(pool) == (spent, 0)


async def test_an_answered_call_of_a_task_that_ends_without_a_run_costs_what_its_journal_says(
    start_workers: StartWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await start_workers(calls_and_works, settle=settler)
    pool.hold("t1 work")
    pool.holds_work = True
    with monkeypatch.context() as patch:
        patch.setattr(AccountClient, "settle", lambda client, settled: None)  # its process is killed before
        await pool.submit("t1")
        await pool.has_begun("t1 work")
        assert await balance(pool) == (0, MAX_TOKENS)
        await pool.crash()
    await pool.cancel("t1")
    pool.worker.begin()
    assert (await pool.outcome("t1")).status == "cancelled"
    assert await balance(pool) == (COST, 0)
    assert await rows(pool, 1) == [("ok", COST)]


async def test_a_call_thought_to_be_cut_off_that_ends_is_charged_once(start_workers: StartWorkers) -> None:
    pool = await start_workers(calls_once, settle=settler)
    pool.hold("t1 call")
    await pool.submit("t1")
    await pool.has_begun("t1 call")
    pool.take_over("t1")
    assert (await pool.outcome("t1")).text == "done"
    assert await balance(pool) == (ESTIMATE, 0)
    pool.let_go("t1 call")
    await pool.until(lambda: bool(pool.events("work.discarded", "t1")))
    assert await balance(pool) == (COST, 0)
