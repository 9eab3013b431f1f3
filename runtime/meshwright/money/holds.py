"""Holds: calls that may be made, with what is reserved for each, and why one may not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace as replace_fields

from meshwright.core.errors import ModelError
from meshwright.core.ids import derived_id, new_id
from meshwright.core.money import TASK_BUDGET, ZERO
from meshwright.models.errors import BudgetExceeded, ModelUnavailable
from meshwright.models.port import CallContext, ModelRequest
from meshwright.money.account import Account, LedgerEntry, ReservationResult
from meshwright.money.balance import Balance, CallOrigin, renews_at
from meshwright.money.charging import words_for
from meshwright.money.estimates import Estimates

EXPENSIVE_TAGS = frozenset({"expensive", "medium"})
"""The tags that a soft budget's cheaper tag takes the place of."""
CHEAPER = "cheap"
"""The tag of calls that go on with a cheaper model, where a budget names none."""
_MARGIN_SECONDS = 10.0  # after a call's own limit: clocks differ, and the last word takes its time


@dataclass(frozen=True, slots=True)
class Hold:
    """A call that may be made: the request, which may have a cheaper tag, and what is reserved for it.

    `amount` is None where what it may cost is unknown, or no budget asks. `is_limited`: it is less than the
    call may cost, and the request may write less. It is over at `until` (unix seconds). `cut` are earlier
    tries of the step that made it, whose processes ended before they did.
    """

    request: ModelRequest
    op: str
    call: str = ""
    amount: Decimal | None = None
    accounts: tuple[Account, ...] = ()
    cheaper_tag: str | None = None
    is_limited: bool = False
    until: float = 0.0
    cut: tuple[str, ...] = ()


def reservation_op(request: ModelRequest) -> str:
    """The id of a reservation: of a task's step always the same, else new."""
    context = request.context
    if context.task_id is None:
        return new_id()
    return f"{attempt_prefix(request.user, context)}{context.path or context.step}"


def attempt_prefix(user: str, context: CallContext) -> str:
    """The beginning of the ids of all reservations of an attempt."""
    where = context.task_id, context.generation, context.attempt
    return derived_id("call", user, context.tenant_id, *map(str, where)) + "/"


def open_calls(attempt: str, balances: Iterable[tuple[Account, Balance]]) -> dict[str, Decimal]:
    """The open calls of an attempt. One that several accounts have counts as the most of them."""
    amounts: dict[str, Decimal] = {}
    for _, state in balances:
        for call, amount in state.open_calls(attempt).items():
            amounts[call] = max(amount, amounts.get(call, ZERO))
    return amounts


def reservation(hold: Hold, amount: Decimal, estimate: Decimal | None, now: datetime) -> LedgerEntry:
    """The entry that asks accounts to hold an amount until the call has ended for sure."""
    context, ends = hold.request.context, now + timedelta(seconds=hold.request.timeout_seconds)
    return LedgerEntry(
        op=hold.op,
        call=hold.call,
        amount=amount,
        priority=context.priority,
        since=(context.since or now).timestamp(),  # of its task: a later call keeps the place of the first
        until=ends.timestamp() + _MARGIN_SECONDS,
        estimate=estimate,
        origin=CallOrigin.from_request(hold.request),
    )


def next_entry(
    entry: LedgerEntry, result: ReservationResult, request: ModelRequest, limiter: Estimates | None
) -> LedgerEntry:
    """The entry for the next account: the first publishes the row, and may say what such calls cost."""
    usual = result.usual_usd
    if usual is None:
        return replace_fields(entry, origin=None)
    if limiter is not None:
        limiter.note_usual(request, usual)
    return replace_fields(entry, origin=None, estimate=usual)


def cheaper_request(request: ModelRequest, cheaper_tag: str | None) -> ModelRequest:
    """The request with a cheaper tag in the place of expensive ones; the same one where nothing changes."""
    if cheaper_tag is None or EXPENSIVE_TAGS.isdisjoint(request.tags):
        return request
    tags = tuple(dict.fromkeys(cheaper_tag if tag in EXPENSIVE_TAGS else tag for tag in request.tags))
    return request.model_copy(update={"tags": tags})


def refusal_error(
    account: Account, entry: LedgerEntry, result: ReservationResult, now: datetime
) -> ModelError:
    """The error of a call that an account has no room for, with what is left, and what to do."""
    if result.answer == "crowded":
        problem = f"Budget {account.budget} ({account.key}) has too many calls under way"
        return ModelUnavailable(problem, remedy="Try again when some have ended")
    renews = renews_at(account.window, now)
    owner = "the mesh" if account.scope == "mesh" else f"{account.scope} {account.key}"
    spent = (
        f"{_usd(result.spent_usd)} of {_usd(result.limit_usd)} spent, {_usd(result.reserved_usd)} reserved"
    )
    if result.answer == "busy":
        message = (
            f"Budget {account.budget} of {owner} has all that is left reserved by calls under way: {spent}"
        )
        remedy = "Try again when some have ended"
    else:
        message = f"Budget {account.budget} of {owner} exceeded: {spent}"
        missing = result.spent_usd + result.reserved_usd + entry.amount - result.limit_usd
        remedy = f"Lower max_tokens, or add {_usd(missing)}: mesh budgets raise {words_for(account)} USD"
        if account.budget == TASK_BUDGET and account.on_empty in ("fail", "cheaper"):
            remedy = "Submit it with a larger budget_usd (--budget), or with on_empty = ask"
        elif renews and account.on_empty != "ask":
            remedy = f"It renews at {renews:%Y-%m-%d %H:%M} UTC. {remedy}"
    message = f"{message}; this call may cost up to {_usd(entry.amount)}"
    if result.denied:
        message = f"{message}. More money was denied by {result.denied}"
    is_cheaper = account.on_empty == "cheaper" or result.cheaper
    error = BudgetExceeded(
        message,
        budget=account.budget,
        account=account.id,
        on_empty="fail" if result.denied else account.on_empty,
        cheaper_tag=(account.cheaper_tag or CHEAPER) if is_cheaper else None,
        owner=account.owner_key,
        is_busy=result.answer == "busy",
        remedy=remedy,
    )
    error.retry_after_seconds = None if renews is None else (renews - now).total_seconds()
    return error


def _usd(amount: Decimal) -> str:
    exponent = amount.normalize().as_tuple().exponent
    return f"${amount:.{max(2, -int(exponent))}f}"
