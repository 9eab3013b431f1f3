"""The options that say which tasks are meant, the same on every command, and how each of many is done."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from meshwright.cli import output
from meshwright.cli.completion import named
from meshwright.cli.connect import Connection, whole_id
from meshwright.cli.options import confirm, since_option, until_option
from meshwright.core.display import Document
from meshwright.core.errors import MeshError

OPEN = ("accepted", "dispatched", "running", "waiting")
ENDED = ("succeeded", "failed", "cancelled", "timed_out")
_FIELDS = (
    click.option(
        "--agent", "agent_id", metavar="ID", shell_complete=named("agent"), help="Only of this agent."
    ),
    click.option(
        "--capability",
        metavar="NAME",
        shell_complete=named("capability"),
        help="Only of tasks that ask for this capability.",
    ),
    click.option("--thread", "thread_id", metavar="ID", help="Only of this conversation."),
    click.option("--parent", "parent_task_id", metavar="ID", help="Only of tasks that this one delegated."),
    click.option("--requester", "requested_by", metavar="NAME", help="Only of tasks of this caller."),
    click.option("--model", metavar="NAME", help="Only of this model."),
    click.option(
        "--error", "--cause", "error", metavar="TYPE", help="Only of tasks that failed by this error."
    ),
    click.option("--text", metavar="WORDS", help="Only of tasks whose request has these words."),
)

FILTER_FIELDS = frozenset(
    [
        "agent_id",
        "capability",
        "status",
        "thread_id",
        "parent_task_id",
        "requested_by",
        "model",
        "error",
        "text",
        "since",
        "until",
    ]
)
"""The fields that a command with these options gets."""


def filter_options(
    *statuses: str, default: str = "", times: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a filter of tasks; `statuses` are those that `--status` takes."""
    text = (
        f"Only of tasks with this status: {', '.join(statuses)}.{f' Default: {default}.' if default else ''}"
    )
    status = click.option("--status", type=click.Choice(statuses), metavar="STATUS", help=text)

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((status, *_FIELDS, *((since_option, until_option) if times else ()))):
            command = option(command)
        return command

    return add


dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def given_filter(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a filter that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def given_ids(ids: Sequence[str]) -> list[str]:
    """The ids that are meant; `-` stands for those on stdin."""
    on_stdin = sys.stdin.read().split() if "-" in ids else []
    return [*(given for given in ids if given != "-"), *on_stdin]


def require_one_way(ids: Sequence[str], wanted: dict[str, Any], *, everything: bool, what: str) -> None:
    """Raises UsageError where not just one of ids, a filter and `--all` says which are meant."""
    if bool(ids) == bool(wanted or everything) or (wanted and everything):
        raise click.UsageError(
            f"name {what}, or give a filter such as --agent ID, or --all", click.get_current_context()
        )


async def each_of(
    mesh: Connection, ids: Sequence[str], do: Callable[[str], Awaitable[Document]]
) -> list[Document]:
    """Do something with each of some tasks; one that is refused says why, and the others are done."""
    return [await _one(await whole_id(mesh, given), do) for given in ids]


async def _one(task_id: str, do: Callable[[str], Awaitable[Document]]) -> Document:
    try:
        return await do(task_id)
    except MeshError as error:
        return {"task_id": task_id, "refused": {"type": error.code, "message": str(error)}}


async def confirmed(
    do: Callable[..., Awaitable[Sequence[Any]]], consequence: str, *, dry_run: bool, yes: bool
) -> list[Document]:
    """Do something with all that a filter finds, once a person has seen how many they are.

    `consequence` says what happens to `{tasks}`.
    """
    if not (dry_run or yes):
        planned = [output.document(item) for item in await do(dry_run=True)]
        count = sum(item["refused"] is None for item in planned)
        if not count:
            return planned
        confirm(
            consequence.format(count=count, s="" if count == 1 else "s", are="is" if count == 1 else "are")
        )
    return [output.document(item) for item in await do(dry_run=dry_run)]


def show_each(
    found: Sequence[Document], told: Callable[[Document], str], *, refused: str, empty: str, as_json: bool
) -> int:
    """Print a line for each; returns the status of the command: 1 if one was refused."""
    if as_json:
        output.echo_json(found)
    elif not found:
        click.echo(empty, err=True)
    for item in () if as_json else found:
        name = item.get("id") or item["task_id"]
        if item["refused"]:
            output.say(f"{name}  {refused}: {item['refused']['message']}", err=True)
        else:
            click.echo(f"{name}  {told(item)}")
    return int(any(item["refused"] for item in found))
