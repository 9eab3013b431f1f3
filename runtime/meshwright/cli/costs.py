"""`mesh costs`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import json_option, mesh_options

KEYS = ["agent", "tag", "model", "task", "tenant"]
NOBODY = {"tag": "(no tag)", "task": "(no task)", "model": "(no answer)"}
HEADS = ("key", "calls", "prompt", "cached", "completion", "cost", "saved by cache", "failed")
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
@json_option
@mesh_options
def costs(by: str, since: str | None, as_json: bool, url: str | None, data: Path | None) -> None:
    """Sum up what calls of models have cost."""
    from meshwright.cli.connect import talk

    async def sum_them_up(mesh: MeshClient) -> Document:
        return await mesh.costs(by=by, since=since)

    found = talk(url, data, sum_them_up)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    elif found["items"]:
        click.echo(_table(found))
    else:
        click.echo('no model was called; mesh ask AGENT "..." calls one', err=True)


def _table(found: Document) -> str:
    from meshwright.cli.tables import table

    by = found["by"]
    rows = [_row(each["key"] or NOBODY.get(by, "(none)"), each) for each in found["items"]]
    if found["omitted"]:
        rows.append([f"({found['omitted']:,} more)", *[""] * (len(HEADS) - 1)])
    return table([by, *HEADS[1:]], [*rows, _row("total", found["total"])])


def _row(name: str, cost: Document) -> list[str]:
    from meshwright.cli.lines import dollars

    counts = [f"{cost[each]:,}" for each in COUNTS]
    return [name, *counts, _known(cost), dollars(cost["saved_usd"]), f"{cost['failed']:,}"]


def _known(cost: Document) -> str:
    """What is known of a cost, and of how many calls nobody knows it: `$0.0120 + 3 unknown`."""
    from meshwright.cli.lines import dollars

    if cost["cost_usd"] is None or not cost["unpriced"]:
        return dollars(cost["cost_usd"])
    return f"{dollars(cost['cost_usd'])} + {cost['unpriced']:,} unknown"
