"""`mesh events`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import json_option, mesh_options

SOME_EVENTS, MAX_EVENTS = 50, 1000


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--task", "task_id", metavar="ID", help="Only events of this task.")
@click.option("--type", "event_type", metavar="TYPE", help="Only this type, such as task.succeeded.")
@click.option("--agent", "agent_id", metavar="ID", help="Only events of this agent.")
@click.option("--limit", type=click.IntRange(1, 1000), help="The last so many (default: 50; all of a task).")
@json_option
@mesh_options
def events(
    follow: bool,
    task_id: str | None,
    event_type: str | None,
    agent_id: str | None,
    limit: int | None,
    as_json: bool,
    url: str | None,
    data: Path | None,
) -> None:
    """Show what happened in the mesh, oldest first.

    With --json each event is one line of JSON.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.eventlines import event_line
    from meshwright.cli.ids import task_id_of
    from meshwright.cli.tables import terminal_width

    write: Callable[[Document], str] = _as_json if as_json else partial(event_line, width=terminal_width())

    async def show(mesh: MeshClient) -> None:
        task = await task_id_of(mesh, task_id) if task_id else None
        fields = {"task_id": task, "event_type": event_type, "agent_id": agent_id}
        newest = await mesh.last_seq() if follow else 0
        found = await mesh.events(limit or _limit(task_id), **fields)
        if task and not found:
            await mesh.task(task)  # raises NotFound: it is no task, or has no such events
        if not found and not follow:
            click.echo(f"no such events; mesh events{mesh.options} shows the last of all", err=True)
        for event in found:
            click.echo(write(event))
            newest = max(newest, event["seq"])
        if follow:
            await _follow(mesh, newest, fields, write)

    talk(url, data, show)


async def _follow(mesh: MeshClient, newest: int, fields: Document, write: Callable[[Document], str]) -> None:
    async with aclosing(mesh.follow(after_seq=newest, **fields)) as live:
        async for event in live:
            click.echo(write(event))


def _limit(task_id: str | None) -> int:
    return MAX_EVENTS if task_id else SOME_EVENTS


def _as_json(event: Document) -> str:
    return json.dumps(event, ensure_ascii=False)
