"""`mesh costs` and `mesh budgets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import json_option, mesh_options

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from meshwright.cli.output import Document
    from meshwright.ledger.proxy import Difference, LiteLLMProxy

KEYS = ["agent", "tag", "model", "task", "tenant"]
NOBODY = {"tag": "(no tag)", "task": "(no task)", "model": "(no answer)"}
HEADS = ("key", "calls", "prompt", "cached", "completion", "cost", "saved by cache", "failed")
ESTIMATED = "~ holds tokens that no provider has counted: they were estimated"
_BUDGET_HEADS = ("budget", "of", "window", "limit", "spent", "reserved", "renews")
COUNTS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")


def _time(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The time that `24h` or `2026-01-01T00:00Z` means."""
    if value is None:
        return None
    from datetime import UTC, datetime

    from meshwright.errors import InvalidInput
    from meshwright.ledger.costs import since_of

    try:
        return since_of(value, datetime.now(UTC)).isoformat()
    except InvalidInput as error:
        raise click.BadParameter(f"{error.message}; {error.remedy}", ctx, parameter) from None


@click.command()
@click.option(
    "--by",
    type=click.Choice(KEYS),
    metavar="KEY",
    default="agent",
    show_default=True,
    help=f"What to sum by: {', '.join(KEYS)}.",
)
@click.option(
    "--since", metavar="TIME", callback=_time, help="From when: 24h, 7d, 2026-01-01T00:00Z (default: ever)."
)
@click.option("--proxy", is_flag=True, help="Experimental: compare with the proxy at LITELLM_BASE_URL.")
@json_option
@mesh_options
def costs(by: Any, since: str | None, proxy: bool, as_json: bool, url: str | None, data: Path | None) -> None:
    """Sum up what model calls cost.

    With --proxy: the proxy reports per agent from a given UTC day, and per tag for all time only.
    """
    from meshwright.cli.output import document, echo_json

    if proxy:
        since = _day_of(by, since)

    async def sum_up(mesh: Connection) -> Document:
        return document(await mesh.client.costs(by, since=since))

    found = talk(url, data, sum_up)
    if proxy:
        _show_beside(found, _of_proxy(by, since), as_json=as_json)
    elif as_json:
        echo_json(found)
    elif found["items"]:
        click.echo(_table(found))
    else:
        click.echo('no model was called; mesh ask AGENT "..." calls one', err=True)


@click.command()
@json_option
@mesh_options
def budgets(as_json: bool, url: str | None, data: Path | None) -> None:
    """Show budgets and spend."""
    from meshwright.cli.output import documents, echo_json

    async def find(mesh: Connection) -> list[Document]:
        return documents(await mesh.client.budgets())

    found = talk(url, data, find, need="state")
    if as_json:
        echo_json(found)
    elif found:
        click.echo(_budgets_table(found))
    else:
        click.echo("there is no budget; mesh.toml declares them as [[ledger.budgets]]", err=True)


def _budgets_table(found: list[Document]) -> str:
    from meshwright.cli.output import table

    return table(_BUDGET_HEADS, [_budget_row(view) for view in found], shorten=["renews", "budget"])


def _budget_row(view: Document) -> list[str]:
    from meshwright.cli.output import dollars, local_time

    name = view["budget"] if view["hard"] else f"{view['budget']} (soft)"
    whose = "the mesh" if view["scope"] == "mesh" else f"{view['scope']} {view['key']}"
    amounts = [dollars(view[field]) for field in ("limit_usd", "spent_usd", "reserved_usd")]
    return [name, whose, view["window"], *amounts, local_time(view["renews_at"]) or "never"]


def _table(found: Document) -> str:
    from meshwright.cli.output import table

    by = found["by"]
    rows = [_row(cost["key"] or NOBODY.get(by, "(none)"), cost) for cost in found["items"]]
    if found["omitted"]:
        rows.append([f"({found['omitted']:,} more)", *[""] * (len(HEADS) - 1)])
    shown = table([by, *HEADS[1:]], [*rows, _row("total", found["total"])], shorten=[by, "saved by cache"])
    return f"{shown}\n{ESTIMATED}" if _is_estimated(found["total"]) else shown


def _row(name: str, cost: Document) -> list[str]:
    from meshwright.cli.output import dollars

    counts = [f"{cost[field]:,}" for field in COUNTS]
    return [name, *counts, _known(cost), dollars(cost["saved_usd"]), f"{cost['failed']:,}"]


def _known(cost: Document) -> str:
    """What is known of a cost, and of how many calls nobody knows it: `$0.0120 + 3 unknown`.

    A `~` before it says that a part of it is estimated.
    """
    from meshwright.cli.output import dollars

    known = f"{'~' if _is_estimated(cost) else ''}{dollars(cost['cost_usd'])}"
    if cost["cost_usd"] is None or not cost["unpriced"]:
        return known
    return f"{known} + {cost['unpriced']:,} unknown"


def _is_estimated(cost: Document) -> bool:
    from decimal import Decimal

    return Decimal(cost.get("estimated_usd", 0)) > 0  # an older mesh does not say


def _day_of(by: str, since: str | None) -> str | None:
    """From when the proxy can sum up by that key: the beginning of the day."""
    if by not in ("agent", "tag"):
        raise click.UsageError(f"a proxy does not sum up by {by}; say --by agent or --by tag")
    if by == "tag" and since is not None:
        raise click.UsageError("a proxy reports by tag for all time; leave out --since, or say --by agent")
    return None if since is None else _begin_of_day(since).isoformat()


def _begin_of_day(since: str) -> datetime:
    from datetime import UTC, datetime, time

    day = datetime.fromisoformat(since).astimezone(UTC).date()
    return datetime.combine(day, time(), UTC)


def _of_proxy(by: str, since: str | None) -> dict[str, Decimal]:
    """What the proxy says was spent, by tag or by agent."""
    from datetime import UTC, datetime

    from meshwright.cli.keys import on_proxy
    from meshwright.ledger.proxy import FIRST_DAY

    first = FIRST_DAY if since is None else _begin_of_day(since).date()

    async def ask(there: LiteLLMProxy) -> dict[str, Decimal]:
        if by == "tag":
            return await there.spend_by_tag()
        return await there.spend_by_agent(first, datetime.now(UTC).date())

    return on_proxy(ask)


def _show_beside(found: Document, theirs: dict[str, Decimal], *, as_json: bool) -> None:
    """Show the ledger's costs beside the proxy's; where they differ most comes first."""
    from decimal import Decimal

    from meshwright.cli.output import echo_json, table
    from meshwright.ledger.proxy import reconcile

    known = {cost["key"]: cost for cost in found["items"] if cost["key"] is not None}
    costs = {key: cost["cost_usd"] and Decimal(cost["cost_usd"]) for key, cost in known.items()}
    differences = reconcile(costs, theirs)
    if as_json:
        items = [
            {
                "key": difference.name,
                "cost_usd": _plain(difference.ours),
                "unpriced": known[difference.name]["unpriced"] if difference.name in known else 0,
                "proxy_usd": _plain(difference.theirs),
                "difference_usd": _plain(difference.amount),
                "differs": difference.differs,
            }
            for difference in differences
        ]
        beside = {"by": found["by"], "since": found["since"], "omitted": found["omitted"], "items": items}
        echo_json(beside)
        return
    rows = [_beside_row(difference, known.get(difference.name), found["by"]) for difference in differences]
    click.echo(table([found["by"], "ledger", "proxy", "difference"], rows))
    differing = sum(difference.differs for difference in differences)
    click.echo(f"{differing} of {len(differences)} differ", err=True)
    if found["omitted"]:
        click.echo(f"{found['omitted']:,} more of the ledger were not compared", err=True)


def _beside_row(difference: Difference, cost: Document | None, by: str) -> list[str]:
    from meshwright.cli.output import dollars

    sign = "+" if difference.amount > 0 else "-"
    return [
        difference.name or NOBODY.get(by, "(none)"),
        _known(cost) if cost else "",
        "" if difference.theirs is None else dollars(difference.theirs),
        f"{sign}{dollars(abs(difference.amount))}" if difference.differs else "",
    ]


def _plain(amount: Decimal | None) -> str | None:
    return None if amount is None else format(amount, "f")
