"""`mesh budgets` and `mesh allow`."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.connect import Connection, listed, talk
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import Column, Document, document, dollars, echo_json, local_time, show
from meshwright.core.errors import NotFound

if TYPE_CHECKING:
    from meshwright.client import Client

TASK_BUDGET = "budget_usd"
"""The name of the budget that a task brings."""
_ON_EMPTY = ["fail", "wait", "ask", "cheaper"]
on_empty_option = click.option(
    "--on-empty",
    type=click.Choice(_ON_EMPTY),
    default="fail",
    show_default=True,
    help="Without money: fail, wait, ask somebody to raise it, or go on with a cheaper model.",
)


class _Amount(click.ParamType[str]):
    """Dollars, as text."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check that it is an amount."""
        text = str(value).strip().removeprefix("$")
        try:
            amount = Decimal(text)
        except InvalidOperation:
            amount = Decimal(-1)
        if not amount.is_finite() or amount <= 0:
            self.fail(f"{value!r} is no amount of dollars, such as 0.50", param, ctx)
        return text


AMOUNT = _Amount()


def task_budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a task: what it may cost, what it does then, and what such tasks have cost before."""
    estimate = click.option("--estimate", is_flag=True, help="Only say what such tasks have cost before.")
    budget = click.option("--budget", "budget_usd", type=AMOUNT, help="Dollars that it may cost, in all.")
    return budget(on_empty_option(estimate(command)))


def estimated(found: Document) -> str:
    """What a task is likely to cost, in a sentence."""
    whose = found["agent_id"] or found["capability"]
    unknown = f"; the cost of {found['unknown']:,} more is unknown" if found["unknown"] else ""
    if not found["tasks"]:
        return f"no estimate: no task of {whose} has succeeded with a known cost yet{unknown}"
    median, p90, most = (dollars(found[name]) for name in ("median_usd", "p90_usd", "max_usd"))
    count = "1 task" if found["tasks"] == 1 else f"{found['tasks']:,} tasks"
    return f"{median} (median), {p90} (90 %), {most} at most: the last {count} of {whose}{unknown}"


def _name(budget: Document) -> str:
    return budget["budget"] if budget["hard"] else f"{budget['budget']} (soft)"


def _scope(budget: Document) -> str:
    return "the mesh" if budget["scope"] == "mesh" else f"{budget['scope']} {budget['key']}"


def _known(budget: Document) -> str:
    return dollars(str(Decimal(budget["spent_usd"]) - Decimal(budget.get("estimated_usd", 0))))


def spent_of(budget: Document) -> str:
    """How much of a budget is spent and reserved, in a line."""
    parts = (
        f"{_known(budget)} known, {_estimated(budget)} estimated, {dollars(budget['reserved_usd'])} reserved"
    )
    return f"{dollars(budget['limit_usd'])}, on empty {budget['on_empty']}: {parts}"


def _estimated(budget: Document) -> str:
    return dollars(budget.get("estimated_usd", "0"))


def _renewal(time: str | None) -> str:
    return local_time(time) or "never"


_BUDGETS = (
    Column("budget", write=_name, cut=2),
    Column("of", write=_scope),
    Column("window", "window"),
    Column("limit", "limit_usd", dollars),
    Column("known", write=_known),
    Column("estimated", write=_estimated),
    Column("reserved", "reserved_usd", dollars),
    Column("renews", "renews_at", _renewal, cut=1),
)


def _whose(allowance: Document) -> str:
    return "the mesh" if allowance["scope"] == "mesh" else f"{allowance['scope']} {allowance['of']}"


def _tenant(tenant_id: str | None) -> str:
    return tenant_id or "all"


def _allowed(allowance: Document) -> str:
    return f"{dollars(allowance['limit_usd'])}/{allowance['window']}"


_ALLOWANCES = (
    Column("whose", write=_whose),
    Column("tenant", "tenant_id", _tenant),
    Column("allowed", write=_allowed),
    Column("on empty", "on_empty"),
)


@click.group(invoke_without_command=True)
@json_option
@mesh_options
@click.pass_context
def budgets(ctx: click.Context, target: Target, as_json: bool) -> None:
    """Show budgets and spend, and raise them."""
    if ctx.invoked_subcommand is not None:
        return
    found = listed(target, lambda client: client.budgets(), need="state")
    empty = "there is no budget; mesh.toml declares them as [[ledger.budgets]], and mesh allow sets one"
    show(found, _BUDGETS, as_json=as_json, empty=empty)


@budgets.command("raise")
@click.argument("name")
@click.argument("amount", type=AMOUNT)
@click.option("--of", "key", metavar="KEY", help="Whose, where each of a scope has a budget of its own.")
@json_option
@mesh_options
def raise_budget(target: Target, name: str, amount: str, key: str | None, as_json: bool) -> None:
    """Add AMOUNT dollars to a budget; tasks that wait for money go on.

    NAME is a budget's name, or the id of a task with a budget of its own. The dollars count until the budget
    renews, and for good where it never does.
    """

    async def add(mesh: Connection) -> Document:
        names = {view.budget for view in await mesh.client.budgets()}
        if name in names and (key is not None or name != TASK_BUDGET):
            return document(await mesh.client.raise_budget(amount, budget=name, key=key))
        from meshwright.cli.tasks import whole_id

        task_id = await whole_id(mesh, name)
        try:
            return document(await mesh.client.raise_budget(amount, task_id=task_id))
        except NotFound:
            remedy = "mesh budgets lists the budgets, mesh tasks the tasks"
            raise NotFound(f"There is no budget and no task {name!r}", remedy=remedy) from None

    show([talk(target, add, need="change")], _BUDGETS, as_json=as_json, empty="")


@click.command()
@click.argument("whose", required=False)
@click.argument("allowance", required=False, metavar="USD/WINDOW")
@click.option("--tenant", "tenant_id", metavar="ID", help="Only for calls of this tenant.")
@click.option(
    "--on-empty", type=click.Choice(_ON_EMPTY), help="Without money: as it was before, fail for a new one."
)
@click.option("--remove", is_flag=True, help="End what WHOSE may spend.")
@json_option
@mesh_options
def allow(
    target: Target,
    whose: str | None,
    allowance: str | None,
    tenant_id: str | None,
    on_empty: Any,
    remove: bool,
    as_json: bool,
) -> None:
    """Allow an agent, a tenant or a tag an amount a day.

    As in: mesh allow researcher-agent 5/day

    WHOSE is an agent's id, or agent:ID, tenant:ID, tag:NAME or mesh; the window hour, day, month or total, a
    day if it is left out. It counts at once, and replaces what was allowed in such a window before. Without
    arguments it lists what is allowed.
    """
    if remove and whose is None:
        raise click.UsageError("say WHOSE allowance to remove; mesh allow lists them")
    if remove == (allowance is not None) and whose is not None:
        raise click.UsageError("say what WHOSE may spend, like 5/day, or --remove")

    async def change(mesh: Connection) -> list[Document]:
        client: Client = mesh.client
        if whose is not None and remove:
            await client.disallow(whose, tenant_id=tenant_id)
        elif whose is not None and allowance is not None:
            return [document(await client.allow(whose, allowance, tenant_id=tenant_id, on_empty=on_empty))]
        return [document(each) for each in await client.allowances()]

    found = talk(target, change, need="state" if whose is None else "change")
    if as_json:
        echo_json(found)
    else:
        show(found, _ALLOWANCES, as_json=False, empty="nothing is allowed; mesh allow AGENT 5/day sets it")
        if allowance is not None:
            tenant = f" --tenant {tenant_id}" if tenant_id else ""
            click.echo(f"mesh allow {whose}{tenant} --remove ends it", err=True)
