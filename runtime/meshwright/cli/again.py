"""Commands for work that is done again: `mesh retry` and `mesh dead-letters`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from meshwright.cli import output
from meshwright.cli.connect import Connection, listed, talk, whole_id
from meshwright.cli.options import (
    DURATION,
    Target,
    confirm,
    json_option,
    limit_option,
    mesh_options,
    since_option,
    until_option,
    yes_option,
)
from meshwright.cli.output import document
from meshwright.core.display import Column, Document, local_time
from meshwright.core.errors import MeshError

_STATUSES = ["failed", "timed_out", "cancelled"]
_FILTERS = (
    click.option("--agent", "agent_id", metavar="ID", help="Only tasks of this agent."),
    click.option("--capability", metavar="NAME", help="Only tasks that ask for this capability."),
    click.option("--status", type=click.Choice(_STATUSES), help="Default: failed and timed_out."),
    click.option("--error", metavar="TYPE", help="Only tasks that failed by this error."),
    click.option("--thread", "thread_id", metavar="ID", help="Only tasks of this conversation."),
    click.option("--parent", "parent_task_id", metavar="ID", help="Only tasks that this task delegated."),
    click.option("--requester", "requested_by", metavar="NAME", help="Only tasks of this caller."),
    click.option("--model", metavar="NAME", help="Only tasks that ended with this model."),
    since_option,
    until_option,
)
_LETTERS = (
    Column("tasks", "tasks"),
    Column("agent", "agent_id", cut=3),
    Column("cause", "error", cut=2),
    Column("first", "first_at", local_time, cut=5, least=19),
    Column("last", "last_at", local_time, cut=4, least=19),
    Column("reason", "reason", cut=6, least=24),
)


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.command()
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--from",
    "begin",
    type=click.Choice(["journal", "start"]),
    help="Keep the finished steps, or none. Default: none where the agent was at fault.",
)
@click.option("--deadline", type=DURATION, help="What the work may take from now on. Default: as before.")
@click.option("--all", "everything", is_flag=True, help="All that failed or timed out.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@limit_option(500, 10_000)
@yes_option
@_filters
@json_option
@mesh_options
def retry(
    target: Target,
    task_ids: tuple[str, ...],
    begin: str | None,
    deadline: float | None,
    everything: bool,
    dry_run: bool,
    limit: int,
    yes: bool,
    as_json: bool,
    **fields: str | None,
) -> int:
    """Work again on tasks that failed, timed out or were cancelled.

    \b
    mesh retry 8GK2F                      one task, by an end of its id
    mesh retry --agent coder --since 2h   all that agree with the filters
    mesh retry - < ids.txt                those on stdin

    A task keeps its id. From its journal, finished steps stay and cost nothing again. mesh dead-letters
    says what there is.
    """
    wanted: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if bool(task_ids) == bool(wanted or everything):
        raise click.UsageError(
            "name tasks, or give a filter such as --agent ID, or --all", click.get_current_context()
        )
    how: dict[str, Any] = {"begin": begin, "deadline": deadline}
    given = _given(task_ids)

    async def again(mesh: Connection) -> list[Document]:
        if task_ids:
            return [await _one(mesh, task_id, dry_run=dry_run, **how) for task_id in given]
        if not (dry_run or yes):
            planned = await mesh.client.retry_all(dry_run=True, limit=limit, **how, **wanted)
            count = sum(task.refused is None for task in planned)
            if not count:
                return [document(task) for task in planned]
            confirm(f"{count} {'task is' if count == 1 else 'tasks are'} worked on again.")
        found = await mesh.client.retry_all(dry_run=dry_run, limit=limit, **how, **wanted)
        return [document(task) for task in found]

    found = talk(target, again, need="log" if dry_run else "change")
    _show(found, as_json=as_json)
    return int(any(task["refused"] for task in found))


def _given(task_ids: Sequence[str]) -> list[str]:
    """The ids that are meant; `-` stands for those on stdin."""
    on_stdin = sys.stdin.read().split() if "-" in task_ids else []
    return [*(given for given in task_ids if given != "-"), *on_stdin]


async def _one(mesh: Connection, given: str, **how: Any) -> Document:
    task_id = await whole_id(mesh, given)
    try:
        return document(await mesh.client.retry(task_id, **how))
    except MeshError as error:
        return {"task_id": task_id, "refused": {"type": error.code, "message": str(error)}}


def _show(found: Sequence[Document], *, as_json: bool) -> None:
    if as_json:
        output.echo_json(found)
        return
    if not found:
        click.echo("no such tasks; mesh dead-letters lists what failed", err=True)
    for task in found:
        if refused := task["refused"]:
            output.say(f"{task['task_id']}  not worked on again: {refused['message']}", err=True)
        else:
            click.echo(f"{task['task_id']}  {_told(task)}")


def _told(task: Document) -> str:
    kept = task["steps_kept"]
    place = f"after {kept} finished step{'' if kept == 1 else 's'}" if task["begin"] == "journal" else "anew"
    begins = "would begin" if task["is_dry"] else "begins"
    return f"{begins} {place}; it had failed by {(task['error'] or {}).get('type', 'an unknown error')}"


@click.command("dead-letters")
@_filters
@limit_option(50)
@json_option
@mesh_options
def dead_letters(target: Target, limit: int, as_json: bool, **fields: str | None) -> None:
    """List the tasks that failed or timed out, by agent and cause.

    mesh retry --agent ID --error TYPE works on those of a group again.
    """
    found = listed(target, lambda client: client.dead_letters(limit=limit, **fields))
    output.show(found, _LETTERS, as_json=as_json, empty="nothing has failed")
