"""Settles the calls of models that a process did not live to settle, where no run makes them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.budgets import Budgets
from meshwright.models.port import CallContext, Settlement
from meshwright.work import Work
from meshwright.work.earlier import read_steps


async def settle_calls(runtime: Runtime, budgets: Budgets, ref: ActorRef, work: Work) -> bool:
    """Book what the calls of an attempt did cost, where its journal says it, and else the estimate.

    Durable when this returns. Returns whether an estimate was booked. Raises HostError.
    """
    records, _ = await read_steps(runtime, ref, work.steps, work.claim + 1)
    values = [record.value for record in records]
    settlements = settlements_in(values)
    task = work.task
    context = CallContext(
        budget_usd=task.budget_usd,
        budgets_above=task.budgets_above,
        budgets=task.budgets,
        task_id=task.task_id,
        thread_id=task.thread_id,
        agent_id=ref.type,
        tenant_id=task.tenant_id,
        generation=task.generation,
        attempt=work.dispatch.attempt,
    )
    await budgets.recover(ref.type, context, settlements)
    await budgets.booked({settled.call for settled in settlements})
    tags = {tag for settled in settlements for tag in settled.tags} | {*_tags_in(values)}
    return await budgets.close(ref.type, context, tuple(sorted(tags)))


def settlements_in(values: Iterable[Mapping[str, Any]]) -> list[Settlement]:
    """The settlements of the calls that the records of a journal are of."""
    return [
        Settlement.model_validate(call["settlement"])
        for value in values
        for call in value.get("calls", ())
        if "settlement" in call
    ]


def _tags_in(values: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for value in values:
        if value.get("kind") == "context" and isinstance(value.get("result"), dict):
            yield from value["result"].get("tags", ())
