"""The command `mesh workers`."""

from __future__ import annotations

import json
import shlex
from typing import Any

import click

from meshwright.component import Column
from meshwright.console.options import Since
from meshwright.console.output import table
from meshwright.core.display import dollars, time_of_day
from meshwright.kit import (
    Connection,
    Document,
    Target,
    document,
    json_option,
    local_time,
    mesh_options,
    show,
    talk,
)


def _where(worker: Document) -> str:
    return f"{worker['host']}:{worker['pid']}"


def _apps(worker: Document) -> str:
    return ", ".join(worker["apps"]) or "all"


def _slots(worker: Document) -> str:
    return f"{sum(worker['agents'].values()):,}"


def _number(value: Any) -> str:
    return f"{value:,}"


def _span(line: Document) -> str:
    first, last = time_of_day(line["first"]), time_of_day(line["last"])
    return first if first == last else f"{first} to {last}"


_STORY = (Column("when", write=_span), Column("what", "text"), Column("rows", "command", cut=1))
_WORKERS = (
    Column("worker", write=_where),
    Column("store", "store"),
    Column("lease", "lease"),
    Column("slots", write=_slots),
    Column("running", "running", _number),
    Column("waiting", "waiting", _number),
    Column("since", "started_at", local_time, cut=1),
    Column("apps", write=_apps, cut=2),
)


@click.command()
@click.option(
    "--since",
    type=Since(),
    default="12h",
    show_default=True,
    help="From when: 22:00 (here, the last time it was), 12h, 2026-01-01T00:00Z.",
)
@json_option
@mesh_options
def story(target: Target, since: str, as_json: bool) -> None:
    """Tell what happened since a time, such as last night.

    It says what was away, waited or failed, who answered, and what it cost. Each line ends in the command
    that lists its rows. No model writes it. At most 1,000 events of a type and 10,000 failed tasks are read,
    the newest; the end says where there was more.
    """

    async def ask(mesh: Connection) -> tuple[Document, str]:
        return await mesh.client.call("GET", "/story", since=since), mesh.options

    told, options = talk(target, ask)
    click.echo(json.dumps(told, ensure_ascii=False) if as_json else story_text(told, options))


def story_text(story: Document, options: str = "") -> str:
    """The text of `mesh story`."""
    lines = [{**line, "command": f"{line['command']}{options}"} for line in story["lines"]]
    parts = [f"since {local_time(story['since'])}"]
    parts += [table(_STORY, lines)] if lines else ["nothing failed, went away or was answered"]
    cost = "of unknown cost" if story["cost_usd"] is None else f"for {dollars(story['cost_usd'])}"
    since = shlex.quote(story["since"])
    calls = f"{story['calls']:,} {'call' if story['calls'] == 1 else 'calls'} of models"
    parts += [
        f"{calls} {cost}: mesh costs --since {since}{options}" if story["calls"] else "no calls of models"
    ]
    if story["cut"]:
        parts += [f"there was more than is counted here of: {', '.join(story['cut'])}"]
    return "\n".join(parts)


@click.command()
@json_option
@mesh_options
def workers(target: Target, as_json: bool) -> None:
    """List workers with their leases, slots and tasks."""

    async def ask(mesh: Connection) -> tuple[list[Document], str]:
        empty = "a key of one tenant sees no workers; ask with one of all tenants"
        if not mesh.is_running:
            empty = f"no mesh runs on {mesh.where}; start one with: mesh up{mesh.options}; or name one: --url"
        return [document(worker) for worker in (await mesh.client.figures()).workers], empty

    rows, empty = talk(target, ask)
    show(rows, _WORKERS, as_json=as_json, empty=empty)
