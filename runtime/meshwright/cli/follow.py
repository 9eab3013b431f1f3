"""`mesh task list --follow`: a table that changes on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.output import document, is_screen, redraw, table
from meshwright.core.display import Column, Document, local_time

if TYPE_CHECKING:
    from meshwright.cli.connect import Connection

_LOOK_SECONDS = 1.0
_OVERLAP = timedelta(minutes=1)  # a change may come later than one that another worker's clock puts after it
_MAX_CHANGES = 10_000  # between two looks
_SHOWN = ("status", "agent_id", "generation", "attempts", "reason")


async def follow_tasks(
    mesh: Connection, columns: Sequence[Column], filters: Document, *, limit: int, as_json: bool
) -> None:
    """Show the tasks that agree with the filters for as long as the command runs."""
    mesh.require_running()
    draws, drawn = is_screen() and not as_json, 0
    known: dict[str, list[Any]] = {}
    while True:
        tasks = [document(task) for task in await mesh.client.tasks(limit=limit, **filters)]
        if draws:
            shown = table(columns, tasks) if tasks else "no such tasks"
            drawn = redraw(shown.splitlines(), drawn)
        else:
            for task in sorted(tasks, key=lambda task: task["last_seq"]):
                if known.get(task["task_id"]) != _shown(task):
                    click.echo(json.dumps(task, ensure_ascii=False) if as_json else _line(columns, task))
            known = {task["task_id"]: _shown(task) for task in tasks}
            limit = _MAX_CHANGES
            if times := [datetime.fromisoformat(task["updated_at"]) for task in tasks]:
                filters = {**filters, "since": (max(times) - _OVERLAP).isoformat()}
        await asyncio.sleep(_LOOK_SECONDS)


def _shown(task: Document) -> list[Any]:
    return [task[field] for field in _SHOWN]


def _line(columns: Sequence[Column], task: Document) -> str:
    cells = (column.cell(task) for column in columns if column.field != "created_at")
    return "  ".join(filter(None, (local_time(task["updated_at"]), *cells)))
