"""Which accounts a call is charged to: those of declared budgets and allowances, and those that it brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from meshwright.core.errors import ConfigError, InvalidInput, NotFound
from meshwright.core.messages import TaskBudget
from meshwright.core.money import Budget
from meshwright.ledger.account import Account
from meshwright.models.port import ModelRequest
from meshwright.work.protocol import DEFAULT_TENANT, tenant_scoped

TASK_BUDGET = "budget_usd"
"""The name of the budget that a task brings itself."""
EVERY = "*"


def accounts_of(request: ModelRequest, budgets: Iterable[Budget]) -> tuple[Account, ...]:
    """The accounts that a call is charged to, in the order in which all ask them."""
    found = [
        account_of(budget, key)
        for budget in budgets
        if budget.tenant_id in (None, request.context.tenant_id)
        for key in _keys_of(budget.scope, request)
        if budget.of in (EVERY, key)
    ]
    found += _inline_accounts(request)
    if len(found) < 2:
        return tuple(found)
    accounts = {account.id: account for account in reversed(found)}  # a declared one is the stronger
    return tuple(accounts[name] for name in sorted(accounts))


def check_budgets(declared: Sequence[Budget]) -> None:
    """Raise ConfigError for budgets that cannot be what was meant."""
    names = [budget.name for budget in declared]
    for budget in declared:
        problem = ""
        if names.count(budget.name) > 1:
            problem = "is declared twice"
        elif budget.scope == "mesh" and budget.of not in (EVERY, "mesh"):
            problem = f"is of the whole mesh, and names {budget.of!r}"
        elif budget.hard and budget.on_empty != "cheaper" and budget.cheaper_tag is not None:
            problem = 'is hard, and has a cheaper_tag, which needs on_empty = "cheaper" or hard = false'
        elif not budget.hard and budget.on_empty != "fail":
            problem = f"is soft, and has on_empty = {budget.on_empty!r}, which only a hard one does"
        elif budget.window == "total" and budget.on_empty == "wait":
            problem = 'waits until it renews, and never does; say on_empty = "ask", or another window'
        if problem:
            raise ConfigError(
                f"Budget {budget.name!r} {problem}", remedy="Correct it in mesh.toml", field="budgets"
            )


def _keys_of(scope: str, request: ModelRequest) -> Iterable[str]:
    """The keys of a call in a scope: none, one, or all its tags. Tenants share no thread and no task."""
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
    return [key for key in keys[scope] if key]


def only_key(budget: Budget) -> str | None:
    """The key of a budget that has a single one."""
    return "mesh" if budget.scope == "mesh" else None if budget.of == EVERY else budget.of


@lru_cache(maxsize=1_000)
def account_of(budget: Budget, key: str, *, inline: bool = False, tenant_id: str | None = None) -> Account:
    """The account of one of those whose budget it is."""
    terms = budget.model_dump(include={"scope", "limit_usd", "window", "hard", "cheaper_tag", "on_empty"})
    return Account(
        budget=budget.name, key=key, inline=inline, tenant_id=tenant_id or budget.tenant_id, **terms
    )


def _inline_accounts(request: ModelRequest) -> Iterator[Account]:
    """The accounts of the budgets that a call brings: its task's own, and those of its caller's key.

    A budget that names whose it is applies to every call that brings it, whichever agent makes the call.
    """
    context = request.context
    tenant_id = context.tenant_id
    for budget in context.budgets:
        for key in _keys_of(budget.scope, request) if budget.of == EVERY else (budget.of,):
            yield account_of(budget, key, inline=True, tenant_id=tenant_id)
    own = context.budget_usd
    if own is not None and context.task_id is not None:
        yield task_account(
            tenant_id, TaskBudget(task_id=context.task_id, limit_usd=own, on_empty=context.on_empty)
        )
    for above in context.budgets_above:
        yield task_account(tenant_id, above)


def task_account(tenant_id: str, budget: TaskBudget) -> Account:
    """The account of the budget that a task brings."""
    return Account(
        budget=TASK_BUDGET,
        scope="task",
        key=tenant_scoped(tenant_id, budget.task_id),
        limit_usd=budget.limit_usd,
        inline=True,
        tenant_id=tenant_id,
        on_empty=budget.on_empty,
    )


def only_account(accounts: Iterable[Account], budget: str | None, key: str | None) -> Account:
    """The account of a budget, that of one `key` where it has several.

    Raises NotFound, and InvalidInput where several are meant.
    """
    named = [account for account in accounts if account.budget == budget]
    found = [account for account in named if key is None or key in (account.key, account.owner_key)]
    if not found:
        raise NotFound(
            f"There is no budget {budget!r}{'' if key is None else f' of {key}'}",
            remedy="mesh budgets lists those there are",
            field="budget",
        )
    if len(found) > 1:
        raise InvalidInput(
            f"Budget {budget!r} has {len(found)} accounts: {', '.join(account.key for account in found[:5])}",
            remedy="Say whose is meant: --of, in JSON key",
            field="key",
        )
    return found[0]


def words_for(account: Account) -> str:
    """How `mesh budgets raise` names an account."""
    if account.budget == TASK_BUDGET:
        return account.owner_key
    return account.budget if account.scope == "mesh" else f"{account.budget} --of {account.owner_key}"


def is_seen_by(account: Account, tenant_id: str) -> bool:
    """Whether a tenant sees an account: its own, and those of all."""
    if account.scope in ("task", "thread") and not account.inline:
        owner, separator, _ = account.key.rpartition(":")
        return (owner if separator else DEFAULT_TENANT) == tenant_id
    owner = account.key if account.scope == "tenant" else account.tenant_id
    return owner is None or owner == tenant_id
