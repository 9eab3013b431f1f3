"""Which accounts a call is charged to, with which tag it goes on, and how it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from meshwright.errors import ConfigError
from meshwright.ledger.account import Account, Verdict, renews_at
from meshwright.models.port import BudgetExceeded, ModelRequest, PriceUnknown
from meshwright.money import Budget
from meshwright.work.protocol import tenant_scoped

DEAR_TAGS = frozenset({"expensive", "medium"})
"""The tags that a soft budget's cheaper tag takes the place of."""
OWN = "budget_usd"
"""The name of the budget that a task brings itself."""
EVERY = "*"


def check(declared: Sequence[Budget]) -> None:
    """Raise ConfigError for budgets that cannot be what was meant."""
    names = [budget.name for budget in declared]
    for budget in declared:
        problem = ""
        if names.count(budget.name) > 1:
            problem = "is declared twice"
        elif budget.scope == "mesh" and budget.of not in (EVERY, "mesh"):
            problem = f"is of the whole mesh, and names {budget.of!r}"
        elif budget.hard and budget.cheaper_tag is not None:
            problem = "is hard, and has a cheaper_tag, which only a soft one goes on with"
        if problem:
            raise ConfigError(
                f"budget {budget.name!r} {problem}", remedy="correct it in mesh.toml", field="budgets"
            )


def keys_of(scope: str, request: ModelRequest) -> Iterable[str]:
    """Whom of a scope a call is by: nobody, one, or all its tags. Tenants share no thread and no task."""
    context = request.context
    tenant_id, thread_id, task_id = context.tenant_id, context.thread_id, context.task_id
    keys = {
        "mesh": ("mesh",),
        "tenant": (tenant_id,),
        "agent": (request.user,),
        "tag": dict.fromkeys(request.tags),
        "thread": (thread_id and tenant_scoped(tenant_id, thread_id),),
        "task": (task_id and tenant_scoped(tenant_id, task_id),),
    }
    return [str(key) for key in keys[scope] if key]


def only_key(budget: Budget) -> str | None:
    """Whose a budget is, where it is of one."""
    return "mesh" if budget.scope == "mesh" else None if budget.of == EVERY else budget.of


def account_of(budget: Budget, key: str, *, brought: bool = False, tenant_id: str | None = None) -> Account:
    """The account of a budget for one of its scope."""
    return Account(
        budget=budget.name,
        scope=budget.scope,
        key=key,
        limit_usd=budget.limit_usd,
        window=budget.window,
        hard=budget.hard,
        cheaper_tag=budget.cheaper_tag,
        brought=brought,
        tenant_id=tenant_id,
    )


def brought_by(request: ModelRequest) -> Iterator[Account]:
    """The accounts of the budgets that a call brings: its task's own, and those of its caller's key.

    A budget that names whose it is applies to every call that brings it, whichever agent makes the call.
    """
    context = request.context
    tenant_id = context.tenant_id
    for budget in context.budgets:
        for key in keys_of(budget.scope, request) if budget.of == EVERY else (budget.of,):
            yield account_of(budget, key, brought=True, tenant_id=tenant_id)
    for above in context.budgets_above:
        yield _account_of_task(above.task_id, above.limit_usd, tenant_id)
    if context.budget_usd is not None and context.task_id is not None:
        yield _account_of_task(context.task_id, context.budget_usd, tenant_id)


def _account_of_task(task_id: str, limit_usd: Decimal, tenant_id: str) -> Account:
    key = tenant_scoped(tenant_id, task_id)
    return Account(budget=OWN, scope="task", key=key, limit_usd=limit_usd, brought=True, tenant_id=tenant_id)


def cheapened(request: ModelRequest, cheaper_tag: str | None) -> ModelRequest:
    """The request with a cheaper tag in the place of those that cost; the same one where nothing changes."""
    if cheaper_tag is None or DEAR_TAGS.isdisjoint(request.tags):
        return request
    tags = tuple(dict.fromkeys(cheaper_tag if tag in DEAR_TAGS else tag for tag in request.tags))
    return request.model_copy(update={"tags": tags})


def exceeded(account: Account, amount: Decimal, verdict: Verdict, now: datetime) -> BudgetExceeded:
    """The error of a hard budget that has no room: which, how far it is, and when it renews."""
    renews = renews_at(account.window, now)
    again = (
        "It never renews: raise its limit_usd"
        if renews is None
        else f"It renews at {renews:%Y-%m-%d %H:%M} UTC"
    )
    whose = "the mesh" if account.scope == "mesh" else f"{account.scope} {account.key}"
    error = BudgetExceeded(
        f"budget {account.budget} of {whose} exceeded: ${verdict.spent_usd:f} of "
        f"${account.limit_usd:f} spent, ${verdict.reserved_usd:f} reserved; this call may cost up to "
        f"${amount:f}",
        budget=account.budget,
        remedy=again,
    )
    error.retry_after_seconds = None if renews is None else (renews - now).total_seconds()
    return error


def refuse_unknown(request: ModelRequest, accounts: Iterable[Account]) -> None:
    """Raise PriceUnknown where one of the accounts is of a hard budget."""
    for account in accounts:
        if account.hard:
            raise PriceUnknown(
                f"nobody knows what a call of {request.model!r} costs, and budget {account.budget} is hard",
                remedy="set default_price in mesh.toml, or the deployment's price in litellm_config.yaml",
                budget=account.budget,
            )
