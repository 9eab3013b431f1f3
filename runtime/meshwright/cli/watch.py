"""`mesh watch` and `mesh task list --follow`: screens that change, elsewhere a line for each change."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from meshwright.agents.display import AGENTS
from meshwright.cli.connect import Connection, talk
from meshwright.cli.filters import REASON, TASKS
from meshwright.cli.options import Target, json_option, limit_option, mesh_options
from meshwright.cli.output import document, event_line, is_screen, redraw, styled, table
from meshwright.cli.status import status_text
from meshwright.cli.timeline import NOISE
from meshwright.core.display import MORE, Column, Document, local_time, time_of_day
from meshwright.core.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshwright.core.messages import TaskStatus

_LOOK_SECONDS = 1.0  # between two looks
_OVERLAP = timedelta(minutes=1)  # a change may come later than one that another worker's clock puts after it
_MAX_CHANGES = 10_000  # between two looks
_SHOWN = ("status", "agent_id", "generation", "attempts", "reason")
_NOISE = (*NOISE, "audit.recorded")  # of which each command of an operator makes some
_OPEN: tuple[TaskStatus, ...] = ("running", "waiting", "dispatched", "accepted")
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_OTHER_SCREEN, _OWN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


async def follow_tasks(
    mesh: Connection, columns: Sequence[Column], filters: Document, *, limit: int, as_json: bool
) -> None:
    """Show the tasks that agree with the filters for as long as the command runs."""
    mesh.require_running()
    draws, drawn = is_screen() and not as_json, 0
    states: dict[str, list[Any]] = {}
    while True:
        tasks = [document(task) for task in await mesh.client.tasks(limit=limit, **filters)]
        if draws:
            text = table(columns, tasks) if tasks else "no such tasks"
            drawn = redraw(text.splitlines(), drawn)
        else:
            for task in sorted(tasks, key=lambda task: task["last_seq"]):
                if states.get(task["task_id"]) != _shown(task):
                    click.echo(json.dumps(task, ensure_ascii=False) if as_json else _line(columns, task))
            states = {task["task_id"]: _shown(task) for task in tasks}
            limit = _MAX_CHANGES
            if times := [datetime.fromisoformat(task["updated_at"]) for task in tasks]:
                filters = {**filters, "since": (max(times) - _OVERLAP).isoformat()}
        await asyncio.sleep(_LOOK_SECONDS)


def _shown(task: Document) -> list[Any]:
    return [task[field] for field in _SHOWN]


def _line(columns: Sequence[Column], task: Document) -> str:
    cells = (column.cell(task) for column in columns if column.field != "created_at")
    return "  ".join(filter(None, (local_time(task["updated_at"]), *cells)))


@click.command()
@limit_option(10, 100)
@json_option
@mesh_options
def watch(target: Target, limit: int, as_json: bool) -> None:
    """Show a live screen of status, agents, open tasks and events, until Ctrl-C.

    It is printed once with --json, and where stdout is no terminal or a dumb one. --limit is for tasks and
    for events.
    """

    async def show(mesh: Connection) -> None:
        if as_json or not is_screen():
            view = await _look(mesh, limit)
            click.echo(json.dumps(view, ensure_ascii=False) if as_json else "\n".join(_page(mesh, view)))
            return
        mesh.require_running()
        with _screen():
            while True:
                await _draw(mesh, limit)
                await asyncio.sleep(_LOOK_SECONDS)

    talk(target, show)


async def _draw(mesh: Connection, limit: int) -> None:
    try:
        lines = _page(mesh, await _look(mesh, limit))
    except HostError as error:  # it may be starting again
        lines = [_head(mesh), "", styled(f"no answer: {error.message}", fg="red")]
    _redraw(lines)


async def _look(mesh: Connection, limit: int) -> Document:
    """The status, the agents that are not parts of the mesh, the open tasks and the last events."""
    client = mesh.client
    tasks = [task for status in _OPEN for task in await client.tasks(status=status, limit=limit)]
    events = [event for event in await client.events(limit=8 * limit) if event.event_type not in _NOISE]
    return {
        "status": document(await client.status()),
        "agents": [agent for agent in await client.items(AGENTS.path) if agent.get("kind") != "system"],
        "tasks": [document(task) for task in tasks[:limit]],
        "events": [document(event) for event in events[-limit:]],
    }


def _page(mesh: Connection, view: Document) -> list[str]:
    columns, height = shutil.get_terminal_size()
    draws = is_screen()
    parts: list[tuple[str, Sequence[str]]] = [
        ("", status_text(view["status"]).splitlines()),
        ("agents", table(AGENTS.columns, view["agents"]).splitlines() if view["agents"] else ()),
        ("open tasks", table((*TASKS, REASON), view["tasks"]).splitlines() if view["tasks"] else ()),
    ]
    lines = [_head(mesh)]
    for title, section in parts:
        if section:
            lines += ["", *([_title(title)] if title else ()), *section]
    if events := [event_line(event, columns if draws else None) for event in view["events"]]:
        room = max(1, height - len(lines) - 2) if draws else len(events)
        lines += ["", _title("last events"), *events[-room:]]
    return lines


def _title(title: str) -> str:
    return styled(title, bold=True) if sys.stdout.isatty() else title


def _head(mesh: Connection) -> str:
    return f"{mesh.where}  {time_of_day(datetime.now(UTC).isoformat())}"


@contextmanager
def _screen() -> Iterator[None]:
    """A screen of its own within a block, as pagers have; what was there before is back after it."""
    click.echo(_OTHER_SCREEN, nl=False)
    try:
        yield
    finally:
        click.echo(_OWN_SCREEN, nl=False)


def _redraw(lines: Sequence[str]) -> None:
    """Draw the screen from its first line; lines that it has no room for are left out."""
    height = shutil.get_terminal_size().lines
    visible_lines = [*lines[: height - 1], MORE] if len(lines) > height else lines
    click.echo(_HOME + "\n".join(f"{line}{_CLEAR_LINE}" for line in visible_lines) + _CLEAR_BELOW, nl=False)
