"""The commands for money: `mesh budgets`, `mesh allow` and `mesh costs`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshwright.console.connect import Connection, talk, whole_id
from meshwright.console.filters import ENDED, OPEN, filter_options, given_filter
from meshwright.console.nouns import Noun, completes, resource_group
from meshwright.console.options import AMOUNT, ON_EMPTY, Target, json_option, mesh_options
from meshwright.console.output import document, echo_json, show, table
from meshwright.core.display import Column, Document, dollars, local_time
from meshwright.core.errors import InvalidInput, NotFound
from meshwright.core.money import TASK_BUDGET
from meshwright.models.settings import ModelsSettings
from meshwright.money.display import ALLOWANCES, BUDGETS

if TYPE_CHECKING:
    from meshwright.money.proxy import LiteLLMProxy

ResultT = TypeVar("ResultT")
_KEYS = ["agent", "tag", "model", "deployment", "prompt", "task", "tree", "tenant"]
_WHERE_ANY = ("cached_tokens", "estimated_usd", "reserved_usd", "saved_usd")  # columns without zeros alone
_NOBODY = {
    "tag": "(no tag)",
    "task": "(no task)",
    "tree": "(no task)",
    "model": "(no answer)",
    "deployment": "(no answer)",
    "prompt": "(no prompt)",
}
_TITLES = {"prompt": "version"}  # beside the tokens of the prompt
budgets = resource_group(BUDGETS)


@budgets.command("raise")
@click.argument("name")
@click.argument("amount", type=AMOUNT, required=False)
@click.option("--cheaper", is_flag=True, help="Have calls without room go on with cheaper models.")
@click.option("--of", "key", metavar="KEY", help="Whose, where each of a scope has a budget of its own.")
@json_option
@mesh_options
def raise_budget(
    target: Target, name: str, amount: str | None, cheaper: bool, key: str | None, as_json: bool
) -> None:
    """Add AMOUNT dollars to a budget; tasks that wait for money go on.

    NAME is a budget's name, or the id of a task with a budget of its own. The dollars, and --cheaper, count
    until the budget renews, and for good where it never does.
    """
    if amount is None and not cheaper:
        raise click.UsageError("say how many dollars to add, or --cheaper")

    async def add(mesh: Connection) -> Document:
        names = {view.budget for view in await mesh.client.budgets()}
        if name in names and (key is not None or name != TASK_BUDGET):
            return document(await mesh.client.raise_budget(amount, cheaper=cheaper, budget=name, key=key))
        task_id = await whole_id(mesh, name)
        try:
            return document(await mesh.client.raise_budget(amount, cheaper=cheaper, task_id=task_id))
        except NotFound:
            remedy = "mesh budgets lists the budgets, mesh tasks the tasks"
            raise NotFound(f"There is no budget and no task {name!r}", remedy=remedy) from None

    show([talk(target, add, need="change")], BUDGETS.columns, as_json=as_json, empty="")


@click.command()
@click.argument("whose", required=False, shell_complete=completes("agent"))
@click.argument("allowance", required=False, metavar="USD/WINDOW")
@click.option(
    "--on-empty", type=click.Choice(ON_EMPTY), help="Without money: as it was before, fail for a new one."
)
@click.option("--remove", is_flag=True, help="End what WHOSE may spend.")
@json_option
@mesh_options
def allow(
    target: Target, whose: str | None, allowance: str | None, on_empty: Any, remove: bool, as_json: bool
) -> None:
    """Allow an agent, a tenant or a tag an amount a day.

    As in: mesh allow researcher-agent 5/day

    WHOSE is an agent's id, or agent:ID, tenant:ID, tag:NAME or mesh; the window hour, day, month or total, a
    day if it is left out. It counts at once, and replaces what was allowed in such a window before. Without
    arguments it lists what is allowed. With --tenant it is for calls of that tenant alone.
    """
    tenant_id = target.tenant
    if remove and whose is None:
        raise click.UsageError("say WHOSE allowance to remove; mesh allow lists them")
    if remove == (allowance is not None) and whose is not None:
        raise click.UsageError("say what WHOSE may spend, like 5/day, or --remove")

    async def change(mesh: Connection) -> list[Document]:
        if whose is not None and remove:
            await mesh.client.disallow(whose, tenant_id=tenant_id)
        elif whose is not None and allowance is not None:
            allowed = await mesh.client.allow(whose, allowance, tenant_id=tenant_id, on_empty=on_empty)
            return [document(allowed)]
        return await mesh.client.items(ALLOWANCES.path)

    target = target._replace(tenant=None)  # the mesh's administrator says what a tenant may spend
    listed = talk(target, change, need="state" if whose is None else "change", begins=allowance is not None)
    show(listed, ALLOWANCES.columns, as_json=as_json, empty=ALLOWANCES.empty)
    if allowance is not None and not as_json:
        tenant = f" --tenant {tenant_id}" if tenant_id else ""
        click.echo(f"mesh allow {whose}{tenant} --remove ends it", err=True)


def _keys(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    from meshwright.money.costs import CostQuery

    try:
        return value if CostQuery(None, value).keys else ""
    except InvalidInput as error:
        raise click.BadParameter(f"{error.message}; {error.remedy}", ctx, parameter) from None


@click.command()
@click.option(
    "--by",
    metavar="KEY[,KEY]",
    default="agent",
    show_default=True,
    callback=_keys,
    help=f"What to sum by: {', '.join(_KEYS)}; or by two, as in agent,model.",
)
@filter_options(*OPEN, *ENDED)
@click.option("--bucket", type=click.Choice(["hour", "day"]), help="A series: for each hour or day of UTC.")
@click.option("--proxy", is_flag=True, help="Experimental: compare with the proxy at LITELLM_BASE_URL.")
@json_option
@mesh_options
def costs(
    target: Target,
    by: str,
    since: str | None,
    until: str | None,
    bucket: Any,
    proxy: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Sum up what model calls cost.

    Agent, conversation, model and prompt are those of the call; all other filters are of its task.

    With --proxy: the proxy reports per agent from a given UTC day, and per tag for all time only.
    """
    of = given_filter(fields)
    if proxy:
        if until is not None or bucket is not None or of:
            raise click.UsageError(
                "a proxy reports until now, no series and all tasks; leave out --until, --bucket and filters"
            )
        since = _first_day(by, since)

    async def sum_up(mesh: Connection) -> Document:
        return document(await mesh.client.costs(by, since=since, until=until, bucket=bucket, **of))

    answer = talk(target, sum_up)
    if proxy:
        _show_beside(answer, _proxy_costs(by, since), as_json=as_json)
    elif as_json:
        echo_json(answer)
    elif answer["items"]:
        click.echo(costs_table(answer))
        if since_listed := answer.get("listed_since"):
            click.echo(f"listed are calls since {local_time(since_listed)}; the total is of all", err=True)
        hours = [
            f"{word} {local_time(bound)}"
            for word, name in (("since", "counted_since"), ("until", "counted_until"))
            if (bound := answer.get(name))
        ]
        if hours:
            click.echo(f"so many calls count by whole hours: {' and '.join(hours)}", err=True)
    else:
        when = " then" if since or until or of else ""
        click.echo(f'no model was called{when}; mesh ask AGENT "..." calls one', err=True)


def costs_table(costs: Document) -> str:
    """The cost of calls, a line for each key, and their total."""
    by, *others = costs["by"].split(",")
    total = costs["total"]
    columns = (
        *([Column(f"{costs['bucket']} (UTC)", "time", _bucket)] if costs.get("bucket") else ()),
        Column(_TITLES.get(by, by), "key", partial(_key, by), cut=4, least=16),
        *(
            Column(_TITLES.get(other, other), "key2", partial(_key2, other), cut=5, least=16)
            for other in others
        ),
        Column("calls", "calls", _count),
        Column("prompt", "prompt_tokens", _count, cut=3, least=12),
        Column("cached", "cached_tokens", _count, cut=1),
        Column("completion", "completion_tokens", _count, cut=3, least=12),
        Column("known", write=_counted),
        Column("estimated", "estimated_usd", _dollars),
        Column("estimate", "estimate_usd", _dollars),
        Column("reserved", "reserved_usd", _dollars),
        Column("saved by cache", "saved_usd", _dollars, cut=2),
        Column("failed", "failed", _count),
    )
    visible = [
        column
        for column in columns
        if column.field not in _WHERE_ANY or Decimal(total.get(column.field) or 0)
        if column.field != "estimate_usd" or any(item.get("estimate_usd") for item in costs["items"])
    ]
    omitted = [{"key": f"({costs['omitted']:,} more)", "key2": ""}] if costs["omitted"] else []
    return table(visible, [*costs["items"], *omitted, {**total, "key": "total", "key2": ""}])


def _bucket(time: str | None) -> str:
    """When an hour or a day of UTC begins; empty in the total."""
    return "" if time is None else time[:16].replace("T", " ").removesuffix(" 00:00")


def _key2(by: str, key: str | None) -> str:
    return "" if key == "" else _key(by, key)


def _key(by: str, key: str | None) -> str:
    return key or _NOBODY.get(by, "(none)")


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _dollars(amount: str | None) -> str:
    return "" if amount is None else dollars(amount)


def _counted(cost: Document) -> str:
    """The known part of a cost without estimates, and how many calls have an unknown cost."""
    if cost.get("cost_usd") is None:
        return _known(cost)
    counted = Decimal(cost["cost_usd"]) - Decimal(cost.get("estimated_usd", 0))
    return _known({**cost, "cost_usd": str(counted), "estimated_usd": "0"})


def _known(cost: Document) -> str:
    """The known part of a cost, and how many calls have an unknown cost: `$0.0120 + 3 unknown`.

    A `~` before it says that a part of it is estimated.
    """
    if "cost_usd" not in cost:  # those left out
        return ""
    text = f"{'~' if Decimal(cost['estimated_usd']) else ''}{dollars(cost['cost_usd'])}"
    if cost["cost_usd"] is None or not cost["unpriced"]:
        return text
    return f"{text} + {cost['unpriced']:,} unknown"


def _first_day(by: str, since: str | None) -> str | None:
    """From when the proxy can sum up by that key: the beginning of the day."""
    if by not in ("agent", "tag"):
        raise click.UsageError(f"a proxy does not sum up by {by}; say --by agent or --by tag")
    if by == "tag" and since is not None:
        raise click.UsageError("a proxy reports by tag for all time; leave out --since, or say --by agent")
    return None if since is None else _begin_of_day(since).isoformat()


def _begin_of_day(since: str) -> datetime:
    return datetime.combine(datetime.fromisoformat(since).astimezone(UTC).date(), time(), UTC)


def on_proxy(use: Callable[[LiteLLMProxy], Awaitable[ResultT]]) -> ResultT:
    """Do something with the proxy that the settings name. Raises InvalidInput where they name none."""
    from meshwright.core.settings import load_settings
    from meshwright.money.proxy import make_proxy

    models = load_settings(Path())[ModelsSettings]
    there = make_proxy(models.base_url, models.api_key.get_secret_value() if models.api_key else None)

    async def run() -> ResultT:
        return await use(there)

    return asyncio.run(run())


def _proxy_costs(by: str, since: str | None) -> dict[str, Decimal]:
    from meshwright.money.proxy import FIRST_DAY

    first = FIRST_DAY if since is None else _begin_of_day(since).date()

    async def ask(there: LiteLLMProxy) -> dict[str, Decimal]:
        if by == "tag":
            return await there.spend_by_tag()
        return await there.spend_by_agent(first, datetime.now(UTC).date())

    return on_proxy(ask)


def _show_beside(answer: Document, theirs: dict[str, Decimal], *, as_json: bool) -> None:
    """Show the ledger's costs beside the proxy's; where they differ most comes first."""
    from meshwright.money.proxy import reconcile

    costs_by_key = {cost["key"]: cost for cost in answer["items"] if cost["key"] is not None}
    ours = {key: cost["cost_usd"] and Decimal(cost["cost_usd"]) for key, cost in costs_by_key.items()}
    differences = reconcile(ours, theirs)
    items = [
        {
            "key": difference.name,
            "cost_usd": _plain(difference.ours),
            "unpriced": costs_by_key[difference.name]["unpriced"] if difference.name in costs_by_key else 0,
            "proxy_usd": _plain(difference.theirs),
            "difference_usd": _plain(difference.amount),
            "differs": difference.differs,
        }
        for difference in differences
    ]
    if as_json:
        echo_json({**{name: answer[name] for name in ("by", "since", "omitted")}, "items": items})
        return

    def ledger(key: str) -> str:
        return _known(costs_by_key[key]) if key in costs_by_key else ""

    columns = (
        Column(answer["by"], "key", partial(_key, answer["by"])),
        Column("ledger", "key", ledger),
        Column("proxy", "proxy_usd", _dollars),
        Column("difference", write=_difference),
    )
    click.echo(table(columns, items))
    differing = sum(difference.differs for difference in differences)
    click.echo(f"{differing} of {len(differences)} differ", err=True)
    if answer["omitted"]:
        click.echo(f"{answer['omitted']:,} more of the ledger were not compared", err=True)


def _difference(item: Document) -> str:
    amount = Decimal(item["difference_usd"])
    return f"{'+' if amount > 0 else '-'}{dollars(abs(amount))}" if item["differs"] else ""


def _plain(amount: Decimal | None) -> str | None:
    return None if amount is None else format(amount, "f")


@click.group(cls=Noun, bare="costs")
def money() -> None:
    """Show costs and budgets, raise budgets, allow agents an amount a day.

    `mesh money` sums up what model calls cost.
    """


for verb, command in {"costs": costs, "budgets": budgets, "raise": raise_budget, "allow": allow}.items():
    money.add_command(command, verb)
