"""`mesh events`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import json_option, mesh_options

if TYPE_CHECKING:
    from meshwright.cli.output import Document
    from meshwright.client import EventFields

SOME_EVENTS, MAX_EVENTS = 50, 1000


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Continue with new events, until Ctrl-C.")
@click.option("--task", "task_id", metavar="ID", help="Only events of this task.")
@click.option("--type", "event_type", metavar="TYPE", help="Only this type, such as task.succeeded.")
@click.option("--agent", "agent_id", metavar="ID", help="Only events of this agent.")
@click.option("--limit", type=click.IntRange(1, 1000), help="How many (default: the last 50; all of a task).")
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
    """Show events, oldest first.

    With --json each event is one line of JSON.
    """
    from meshwright.cli.event_lines import event_line
    from meshwright.cli.output import document, terminal_width
    from meshwright.cli.tasks import whole_id

    write: Callable[[Document], str] = _as_json if as_json else partial(event_line, width=terminal_width())

    async def show(mesh: Connection) -> None:
        if follow:
            mesh.require_running()
        task = await whole_id(mesh, task_id) if task_id else None
        fields: EventFields = {"task_id": task, "event_type": event_type, "agent_id": agent_id}
        newest = await mesh.client.last_seq() if follow else 0
        found = await mesh.client.events(
            limit=limit or (MAX_EVENTS if task else SOME_EVENTS),
            task_id=task,
            event_type=event_type,
            agent_id=agent_id,
        )
        if task and not found:
            await mesh.client.task(task)  # raises NotFound: it is no task, or has no such events
        if not found and not follow:
            click.echo(f"no such events; mesh events{mesh.options} shows the last of all", err=True)
        for event in found:
            click.echo(write(document(event)))
            newest = max(newest, event.seq or 0)
        if follow:
            await _follow(mesh, newest, fields, write)

    talk(url, data, show)


async def _follow(
    mesh: Connection, newest: int, fields: EventFields, write: Callable[[Document], str]
) -> None:
    from meshwright.cli.output import document

    task_id = fields.get("task_id")
    is_one_task = task_id and not (fields.get("event_type") or fields.get("agent_id"))
    events = (
        mesh.client.follow(task_id, after_seq=newest)
        if task_id and is_one_task
        else mesh.client.stream(after_seq=newest, **fields)
    )
    async with aclosing(events) as live:
        async for event in live:
            click.echo(write(document(event)))


def _as_json(event: Document) -> str:
    return json.dumps(event, ensure_ascii=False)
