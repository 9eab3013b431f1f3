"""`mesh task`, and its commands for one or many: cancel, retry, dead-letters, tree and score."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import quote

import click

from meshwright.cli.answers import answer
from meshwright.cli.steps import step_path, task_page
from meshwright.cli.tasks import ask, show, steps, submit, tasks
from meshwright.console import output
from meshwright.console.connect import Connection, listed, talk, whole_id
from meshwright.console.filters import OPEN, Many, by_id, filter_options, given_filter, many_options, refusal
from meshwright.console.nouns import Noun, completes
from meshwright.console.options import (
    DURATION,
    Target,
    WholeNumber,
    json_option,
    limit_option,
    mesh_options,
    utf8,
)
from meshwright.console.output import document
from meshwright.core import display
from meshwright.core.display import Column, Document, age, dollars, short_id
from meshwright.core.errors import Conflict

_ENDED_BEFORE = {"succeeded": "succeeded", "failed": "failed", "timed_out": "timed out"}
"""How a task had ended that a request to cancel it came too late for."""
_STATUSES = ("failed", "timed_out", "cancelled")
LETTERS = (
    Column("tasks", "tasks"),
    Column("oldest", "first_at", age),
    Column("agent", "agent_id", cut=3),
    Column("cause", "error", cut=4),
    Column("last", "last_at", age, cut=2, least=7),
    Column("reason", "reason", cut=1, least=24),
)
_WAYS = ("journal", "start")
_begin_option = click.option(
    "--from",
    "begin",
    type=click.Choice(_WAYS),
    help="Keep the finished steps, or none. Default: none where the agent was at fault.",
)
_deadline_option = click.option(
    "--deadline", type=DURATION, help="What the work may take from now on. Default: as before."
)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=completes("task"))
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

    if many.is_one:
        plan = talk(target, partial(_cancel_plan, many.ids[0]))
        output.echo(plan, plan["text"], as_json=many.as_json)
        return 0

    async def one(mesh: Connection, task_id: str) -> Document:
        view = await (mesh.client.task if many.dry_run else mesh.client.cancel)(task_id)
        state = _ENDED_BEFORE.get(view.status)
        refused = refusal(Conflict(f"it had already {state}")) if state else None
        return {"task_id": view.task_id, "status": view.status, "is_dry": many.dry_run, "refused": refused}

    async def found(mesh: Connection, **fields: Any) -> list[Any]:
        return await mesh.client.cancel_all(**fields)

    results = many.do(target, by_id(one), found, "{count} open task{s} {are} cancelled.")
    return many.show(results, _told_cancelled, "not cancelled", "no such open tasks; mesh tasks lists all")


async def _cancel_plan(part: str, mesh: Connection) -> Document:
    return document(await mesh.client.cancel_plan(await whole_id(mesh, part)))


def _told_cancelled(task: Document) -> str:
    if task["is_dry"]:
        return f"would be cancelled; it is {task['status']}"
    return "cancelled" if task["status"] == "cancelled" else "cancelling: it ends once its agent lets go"


async def _cancel_one(part: str, as_json: bool, mesh: Connection) -> str:
    view = await mesh.client.cancel(await whole_id(mesh, part))
    if state := _ENDED_BEFORE.get(view.status):
        click.echo(f"it had already {state}; nothing was cancelled", err=True)
    elif view.status != "cancelled":
        then = "its agent lets go" if mesh.is_running else f"mesh up{mesh.options} runs"
        if view.missing_agent is not None:
            then = f"its agent {view.missing_agent} is back, or within seconds if no process has it"
        click.echo(f"cancelling: the task ends once {then}", err=True)
    return task_page(mesh, view, as_json=as_json)


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completes("task"))
@json_option
@mesh_options
def tree(target: Target, task_id: str, as_json: bool) -> None:
    """Show a task with all that it delegated, and what each has cost.

    `cost` is of its own calls of models, `in all` of those below it too.
    """

    async def show_it(mesh: Connection) -> Document:
        return document(await mesh.client.tree(await whole_id(mesh, task_id)))

    view = talk(target, show_it)
    output.echo_json(view) if as_json else show_tree(view)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("task_id", metavar="ID", shell_complete=completes("task"))
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

    view = talk(target, give, need="change")
    sentence = f"{short_id(view['task_id'])} scored: {view['name']} {display.number(view['value'])}"
    output.echo(view, sentence, as_json=as_json)


def show_tree(view: Document) -> None:
    """Print the tree of a task, with the costs of each."""
    output.show(view["items"], _TREE, as_json=False, empty="")
    if view["omitted"] or not view["is_whole"]:
        more = f"{view['omitted']:,}" if view["is_whole"] else "over 10,000"
        click.echo(f"({more} more tasks; the costs above them have theirs)", err=True)


def _took(duration_ms: float | None) -> str:
    return "" if duration_ms is None else display.seconds(duration_ms)


def _calls(count: int) -> str:
    return str(count or "")


def _branch(task: Document) -> str:
    return f"{'  ' * task['depth']}{short_id(task['task_id'])}"


def _cost(field: str, unpriced: str) -> Callable[[Document], str]:
    def write(task: Document) -> str:
        cost = dollars(task[field]) if Decimal(task[field]) or not task[unpriced] else ""
        return f"{cost} + {task[unpriced]} unpriced".strip(" +") if task[unpriced] else cost

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


def _begin_or_step(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return value if value in _WAYS else step_path(ctx, param, value)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--from",
    "begin",
    metavar="journal|start|STEP",
    callback=_begin_or_step,
    help="Keep the finished steps, or none; or with a step make a new task that goes on behind it. Default: "
    "none where the agent was at fault.",
)
@click.option("--attempt", type=WholeNumber(1), metavar="N", help="The attempt of STEP (default: the last).")
@_deadline_option
@many_options(*_STATUSES, everything="All that failed or timed out.", default="failed and timed_out")
@mesh_options
def retry(target: Target, many: Many, begin: str | None, attempt: int | None, deadline: float | None) -> int:
    """Work again on tasks that failed, timed out or were cancelled.

    \b
    mesh retry 8GK2F                      one task, by an end of its id
    mesh retry --agent coder --since 2h   all that agree with the filters
    mesh retry - < ids.txt                those on stdin
    mesh retry 8GK2F --from 3             a new task that goes on behind its step 3

    A task keeps its id. From its journal, finished steps stay and cost nothing again. With --from STEP the
    task stays as it is, however it ended, and a new one begins behind that step: its path or number in mesh
    task ID --steps. mesh dead-letters says what there is.
    """
    many.require_one_way("tasks")
    is_fork, context = begin not in (None, *_WAYS), click.get_current_context()
    if is_fork and not many.is_one:
        raise click.UsageError("a step is one of one task: name that by its ID", context)
    if attempt is not None and not is_fork:
        raise click.UsageError("--attempt says whose step is meant: add --from STEP", context)
    if is_fork:
        how = {"attempt": attempt, "deadline": deadline, "dry_run": many.dry_run}
        return _fork(target, many.ids[0], str(begin), as_json=many.as_json, **how)
    if many.is_one and many.dry_run:
        return _plan(target, many.ids[0], begin, as_json=many.as_json)
    return _again(target, many, begin=begin, deadline=deadline)


def _plan(target: Target, part: str, begin: str | None, *, as_json: bool) -> int:
    async def read(mesh: Connection) -> Document:
        return document(await mesh.client.retry_plan(await whole_id(mesh, part)))

    plan = talk(target, read)
    ways = [way for way in plan["ways"] if begin in (None, way["begin"])]
    lines = [f"--from {way['begin']}: {way['text']}" for way in ways]
    if begin is None:
        lines[0] = f"{lines[0]} This is the usual way."
    output.echo({**plan, "ways": ways}, "\n".join(lines), as_json=as_json)
    return 0


def _fork(target: Target, part: str, step: str, *, as_json: bool, **how: Any) -> int:
    async def fork(mesh: Connection) -> Document:
        return document(await mesh.client.fork(await whole_id(mesh, part), step, **how))

    view = talk(target, fork, need="state" if how["dry_run"] else "change")
    origin, count = view["forked_from"], view["steps_kept"]
    goes_on = f"{view['task_id']}  goes on"
    if view["is_dry"]:
        goes_on = f"a new task of {view['agent_id']} would go on"
    steps_kept = f"{count} finished step{'' if count == 1 else 's'}"
    sentence = f"{goes_on} after step {origin['step']} of {short_id(origin['task_id'])}, with {steps_kept}"
    output.echo(view, sentence, as_json=as_json)
    return 0


def _again(target: Target, many: Many, **how: Any) -> int:
    async def one(mesh: Connection, task_id: str) -> Document:
        return document(await mesh.client.retry(task_id, dry_run=many.dry_run, **how))

    async def found(mesh: Connection, **fields: Any) -> list[Any]:
        return await mesh.client.retry_all(**how, **fields)

    results = many.do(target, by_id(one), found, "{count} task{s} {are} worked on again.")
    empty = "no such tasks; mesh dead-letters lists what failed"
    return many.show(results, _told, "not worked on again", empty)


def _told(task: Document) -> str:
    count = task["steps_kept"]
    place = (
        f"after {count} finished step{'' if count == 1 else 's'}"
        if task["begin"] == "journal"
        else "from the start, and makes finished steps again (--from journal keeps them)"
    )
    begins = "would begin" if task["is_dry"] else "begins"
    return f"{begins} {place}; it had failed by {(task['error'] or {}).get('type', 'an unknown error')}"


@click.group("dead-letters", cls=Noun)
def dead_letters() -> None:
    """List the tasks that failed or timed out, by agent and cause, and work on them again."""


@dead_letters.command("list")
@filter_options("failed", "timed_out")
@limit_option(50)
@json_option
@mesh_options
def list_letters(target: Target, limit: int, as_json: bool, **fields: Any) -> None:
    """List the tasks that failed or timed out, by agent and cause.

    mesh dead-letters redrive --agent ID --cause TYPE works on those of a group again.
    """
    rows = listed(target, lambda client: client.dead_letters(limit=limit, **fields))
    is_filtered = bool(given_filter(fields))
    empty = "no such tasks have failed; mesh dead-letters lists all" if is_filtered else "no task has failed"
    output.show(rows, LETTERS, as_json=as_json, empty=empty)


@dead_letters.command()
@_begin_option
@_deadline_option
@many_options("failed", "timed_out", everything="All of them.")
@mesh_options
def redrive(target: Target, many: Many, begin: str | None, deadline: float | None) -> int:
    """Work again on the tasks of a group: mesh retry with the same filters.

    \b
    mesh dead-letters redrive --agent coder --cause Timeout
    """
    many.require_one_way("a group")
    return _again(target, many, begin=begin, deadline=deadline)


@click.group(cls=Noun)
def task() -> None:
    """List tasks, show one with its attempts and outcome, cancel one.

    `mesh task` lists them, `mesh task ID` shows one.
    """


task.add_command(tasks, "list")
for command in (show, steps, tree, score, ask, submit, answer, cancel, retry, dead_letters):
    task.add_command(command)
