"""Rules about money: the bill of the provider, the ledger, the costs of outcomes, and purses."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from tests.support.walker.facts import Facts, Finding
from tests.support.walker.world import PRICE

_BREAK_OFF = {"Cancelled", "DeadlineExceeded"}


class Money(Facts):
    """The rules, over the facts of a walk."""

    def _money(self) -> Iterator[Finding]:
        """The ledger has what the provider billed, and no call that was never begun.

        But one that was broken off, or given up, between its durable beginning and the call: it may have
        been made.
        """
        world, costs = self._history.world, self._history.costs
        ledger = costs.total.cost_usd or Decimal(0)
        if ledger < world.bill - PRICE * world.cut_calls:
            yield Finding("ledger below the bill", self._shape(), f"ledger {ledger}, bill {world.bill}")
        cut = world.cut_calls + world.calls_beside + world.asks.never_arrived()
        cut += sum(
            attempt.error is not None and attempt.error.type in _BREAK_OFF
            for view in self._tasks.values()
            for attempt in (*view.attempts, *([view.outcome] if view.outcome else ()))
        )
        rows, made = costs.total.calls, world.begun_calls + cut + world.charge_calls
        is_usual = self._history.plan.purse is None  # else one that was cut costs what it was estimated at
        known = ledger - costs.total.estimated_usd  # a stream that was left early is booked at an estimate
        if rows > made or (is_usual and known > PRICE * (world.begun_calls + cut) + world.charges):
            text = f"the ledger has {rows} calls of {ledger}, and {made} were begun"
            yield Finding("calls that were never made", self._shape(), text)

    def _outcome_costs(self) -> Iterator[Finding]:
        """The cost of an outcome is what the ledger has of the task and of those below it."""
        by_task = {item.key: item for item in self._history.costs.items}
        retried = {retry.task_id for retry in self._history.retries}
        for task_id, view in self._tasks.items():
            family = [at for at, chain in self._above.items() if task_id in chain]
            costs = [by_task[at] for at in family if at in by_task]
            is_plain = len(view.attempts) == 1 and view.forked_from is None
            is_plain = is_plain and not retried & {*family} and not any(cost.unpriced for cost in costs)
            if view.outcome is None or not is_plain:
                continue
            ledger = sum((cost.cost_usd or Decimal(0) for cost in costs), Decimal(0))
            if view.outcome.cost_usd != ledger:
                text = f"the outcome of {self._name(task_id)} says {view.outcome.cost_usd}, not {ledger}"
                yield Finding("outcome beside the ledger", self._shape(task_id), text)

    def _purses(self) -> Iterator[Finding]:
        """A task and those below it spend no more than its caller gave, but for a call that goes over it.

        One that was cut off may go over it too: it was let through at its estimate, and costs more.
        """
        purse = self._history.plan.purse
        by_task = {item.key: item.cost_usd or Decimal(0) for item in self._history.costs.items}
        retried = {retry.task_id for retry in self._history.retries}
        for task_id in self._history.submitted if purse is not None else ():
            family = [at for at, chain in self._above.items() if task_id in chain]
            spent = sum((by_task.get(at, Decimal(0)) for at in family), Decimal(0))
            if spent > Decimal(str(purse)) + PRICE * (1 + self._history.world.cut_calls) and not retried & {
                *family
            }:
                text = f"{self._name(task_id)} has spent {spent} of {purse}"
                yield Finding("more than the purse", self._shape(task_id), text)
