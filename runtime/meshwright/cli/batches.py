"""Commands for tasks, one or many: `mesh cancel`, `mesh task tree` and `mesh task score`."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import quote

import click

from meshwright.cli import output
from meshwright.cli.completion import named
from meshwright.cli.connect import Connection, talk, whole_id
from meshwright.cli.filters import OPEN, Many, by_id, many_options, refusal
from meshwright.cli.options import Target, json_option, mesh_options, utf8
from meshwright.cli.output import document
from meshwright.cli.tasks import task_page
from meshwright.core import display
from meshwright.core.display import Column, Document, dollars, short_id
from meshwright.core.errors import Conflict

_ENDED_BEFORE = {"succeeded": "succeeded", "failed": "failed", "timed_out": "timed out"}
"""How a task had ended that a request to cancel it came too late for."""


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=named("task"))
@many_options(*OPEN, everything="All that are open.")
@mesh_options
def cancel(target: Target, many: Many) -> int:
    """Cancel tasks.

    \b
    mesh cancel 8GK2F                      one task, by an end or the beginning of its id
    mesh cancel --agent coder --since 2h   all open ones that agree with the filters
    mesh cancel - < ids.txt                those on stdin

    A task that has ended stays as it is, and the command says so.
    """
    many.require_one_way("tasks")
    if many.is_one and not many.dry_run:
        click.echo(talk(target, partial(_cancel_one, many.ids[0], many.as_json), need="change"))
        return 0

    async def one(mesh: Connection, task_id: str) -> Document:
        view = await (mesh.client.task if many.dry_run else mesh.client.cancel)(task_id)
        ended = _ENDED_BEFORE.get(view.status)
        refused = refusal(Conflict(f"it had already {ended}")) if ended else None
        return {"task_id": view.task_id, "status": view.status, "is_dry": many.dry_run, "refused": refused}

    async def found(mesh: Connection, **fields: Any) -> list[Any]:
        return await mesh.client.cancel_all(**fields)

    done = many.do(target, by_id(one), found, "{count} open task{s} {are} cancelled.")
    return many.show(done, _told_cancelled, "not cancelled", "no such open tasks; mesh tasks lists all")


def _told_cancelled(task: Document) -> str:
    if task["is_dry"]:
        return f"would be cancelled; it is {task['status']}"
    return "cancelled" if task["status"] == "cancelled" else "cancelling: it ends once its agent lets go"


async def _cancel_one(given: str, as_json: bool, mesh: Connection) -> str:
    view = await mesh.client.cancel(await whole_id(mesh, given))
    if ended := _ENDED_BEFORE.get(view.status):
        click.echo(f"it had already {ended}; nothing was cancelled", err=True)
    elif view.status != "cancelled":
        then = "its agent lets go" if mesh.is_running else f"mesh up{mesh.options} runs"
        if view.missing_agent is not None:
            then = f"its agent {view.missing_agent}, which is not loaded here, is back"
        click.echo(f"cancelling: the task ends once {then}", err=True)
    return task_page(mesh, view, as_json=as_json)


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=named("task"))
@json_option
@mesh_options
def tree(target: Target, task_id: str, as_json: bool) -> None:
    """Show a task with all that it delegated, and what each has cost.

    `cost` is of its own calls of models, `in all` of those below it too.
    """

    async def show_it(mesh: Connection) -> Document:
        return document(await mesh.client.tree(await whole_id(mesh, task_id)))

    found = talk(target, show_it)
    if as_json:
        output.echo_json(found)
        return
    show_tree(found)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("task_id", metavar="ID", shell_complete=named("task"))
@click.argument("name", metavar="NAME")
@click.argument("value", type=float, metavar="VALUE")
@click.option("--comment", metavar="TEXT", default="", callback=utf8, help="Why.")
@json_option
@mesh_options
def score(target: Target, task_id: str, name: str, value: float, comment: str, as_json: bool) -> None:
    """Say how good a task was: mesh task score 8GK2F thumbs 1

    Each score is an event, task.scored, and stays.
    """

    async def give(mesh: Connection) -> Document:
        path = f"/v1/tasks/{quote(await whole_id(mesh, task_id), safe='')}/scores"
        return await mesh.client.call("POST", path, body={"name": name, "value": value, "comment": comment})

    given = talk(target, give, need="change")
    if as_json:
        output.echo_json(given)
    else:
        click.echo(f"{short_id(given['task_id'])} scored: {given['name']} {display.number(given['value'])}")


def show_tree(found: Document) -> None:
    """Print the tree of a task, with the costs of each."""
    output.show(found["items"], _TREE, as_json=False, empty="")
    if found["omitted"] or not found["is_whole"]:
        more = f"{found['omitted']:,}" if found["is_whole"] else "over 10,000"
        click.echo(f"({more} more tasks; the costs above them have theirs)", err=True)


def _took(duration_ms: float | None) -> str:
    return "" if duration_ms is None else display.seconds(duration_ms)


def _calls(count: int) -> str:
    return str(count or "")


def _branch(task: Document) -> str:
    return f"{'  ' * task['depth']}{short_id(task['task_id'])}"


def _cost(field: str, unpriced: str) -> Callable[[Document], str]:
    def write(task: Document) -> str:
        known = dollars(task[field]) if Decimal(task[field]) or not task[unpriced] else ""
        return f"{known} + {task[unpriced]} unpriced".strip(" +") if task[unpriced] else known

    return write


_TREE = (
    Column("task", write=_branch),
    Column("status", "status"),
    Column("agent", "agent_id", cut=4),
    Column("took", "duration_ms", _took, cut=2),
    Column("calls", "calls", _calls, cut=1),
    Column("cost", write=_cost("cost_usd", "unpriced")),
    Column("in all", write=_cost("tree_cost_usd", "tree_unpriced")),
    Column("error", "error", cut=3),
)
