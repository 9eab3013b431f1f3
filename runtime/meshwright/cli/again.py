"""Commands for work that is done again: `mesh retry` and `mesh dead-letters`."""

from __future__ import annotations

from typing import Any

import click

from meshwright.cli import output
from meshwright.cli.connect import Connection, listed, talk, whole_id
from meshwright.cli.filters import Many, by_id, filter_options, given_filter, many_options
from meshwright.cli.nouns import Noun
from meshwright.cli.options import DURATION, Target, WholeNumber, json_option, limit_option, mesh_options
from meshwright.cli.output import document
from meshwright.cli.steps import step_path
from meshwright.core.display import Column, Document, age, short_id

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
    task stays as it is, however it ended, and a new one begins behind that step. mesh dead-letters says what
    there is.
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
    return _again(target, many, begin=begin, deadline=deadline)


def _fork(target: Target, given: str, step: str, *, as_json: bool, **how: Any) -> int:
    async def fork(mesh: Connection) -> Document:
        return document(await mesh.client.fork(await whole_id(mesh, given), step, **how))

    found = talk(target, fork, need="state" if how["dry_run"] else "change")
    origin, kept = found["forked_from"], found["steps_kept"]
    if as_json:
        output.echo_json(found)
        return 0
    goes_on = (
        f"step {step} of {short_id(origin['task_id'])}, with {kept} finished step{'' if kept == 1 else 's'}"
    )
    if found["is_dry"]:
        click.echo(f"a new task of {found['agent_id']} would go on after {goes_on}")
    else:
        click.echo(f"{found['task_id']}  goes on after {goes_on}")
    return 0


def _again(target: Target, many: Many, **how: Any) -> int:
    async def one(mesh: Connection, task_id: str) -> Document:
        return document(await mesh.client.retry(task_id, dry_run=many.dry_run, **how))

    async def found(mesh: Connection, **fields: Any) -> list[Any]:
        return await mesh.client.retry_all(**how, **fields)

    done = many.do(target, by_id(one), found, "{count} task{s} {are} worked on again.")
    empty = "no such tasks; mesh dead-letters lists what failed"
    return many.show(done, _told, "not worked on again", empty)


def _told(task: Document) -> str:
    kept = task["steps_kept"]
    place = (
        f"after {kept} finished step{'' if kept == 1 else 's'}"
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
    found = listed(target, lambda client: client.dead_letters(limit=limit, **fields))
    output.show(
        found,
        LETTERS,
        as_json=as_json,
        empty="no task has failed"
        if not given_filter(fields)
        else "no such tasks have failed; mesh dead-letters lists all",
    )


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
