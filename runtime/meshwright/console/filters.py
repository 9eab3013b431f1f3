"""The options that say which tasks are meant, the columns of their lists, and how each of many is done."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import Any, NamedTuple

import click

from meshwright.console import output
from meshwright.console.connect import Connection, talk, whole_id
from meshwright.console.nouns import completes
from meshwright.console.options import (
    Target,
    confirm,
    json_option,
    limit_option,
    since_option,
    until_option,
    yes_option,
)
from meshwright.core.display import Column, Document, age, dollars, local_time
from meshwright.core.errors import MeshError

OPEN = ("accepted", "dispatched", "running", "waiting")
ENDED = ("succeeded", "failed", "cancelled", "timed_out")


def _cost(task: Document) -> str:
    """The cost of a task that has ended: before, the list does not know it."""
    return dollars(task["cost_usd"]) if task["status"] in ENDED else ""


TASKS = (
    Column("task", "task_id", cut=1, from_end=True),
    Column("status", "status"),
    Column("title", "title", cut=7, least=16),
    Column("capability", "capability", cut=4),
    Column("agent", "agent_id", cut=5),
    Column("age", "created_at", age),
    Column("model", "model", cut=2),
    Column("cost", write=_cost, cut=3, least=7),
)
_OVERLAP = timedelta(minutes=1)  # a change may come later than one that another worker's clock puts after it
_MAX_CHANGES = 10_000  # between two looks
_SHOWN = ("status", "agent_id", "generation", "attempts", "reason")
_LOOK_SECONDS = 1.0  # between two looks
REASON = Column("reason", "reason", cut=6, least=32)


def _match(match: Document | None) -> str:
    """The text in which a search has found its words, in marks."""
    if match is None:
        return ""
    pieces = (f"«{piece}»" if place % 2 else piece for place, piece in enumerate(match["pieces"]))
    return f"{match['of']}: {''.join(pieces)}"


MATCH = Column("found", "match", _match, cut=8, least=32)
_FIELDS = (
    click.option(
        "--agent", "agent_id", metavar="ID", shell_complete=completes("agent"), help="Only of this agent."
    ),
    click.option(
        "--capability",
        metavar="NAME",
        shell_complete=completes("capability"),
        help="Only of tasks that ask for this capability.",
    ),
    click.option("--thread", "thread_id", metavar="ID", help="Only of this conversation."),
    click.option("--parent", "parent_task_id", metavar="ID", help="Only of tasks that this one delegated."),
    click.option("--requester", "requested_by", metavar="NAME", help="Only of tasks of this caller."),
    click.option("--model", metavar="NAME", help="Only of this model."),
    click.option(
        "--prompt",
        metavar="NAME[@DIGEST]",
        shell_complete=completes("prompt"),
        help="Only of calls with this prompt, or with one version of it.",
    ),
    click.option(
        "--error", "--cause", "error", metavar="TYPE", help="Only of tasks that failed by this error."
    ),
    click.option(
        "--text",
        metavar="WORDS",
        help='Only of tasks with these words in request, questions, answer or error; also "a phrase", word*.',
    ),
)

_WANTED = {
    *("agent_id", "capability", "status", "thread_id", "parent_task_id", "requested_by", "model"),
    *("prompt", "error", "text", "since", "until", "kind"),
}


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


def given_filter(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a filter that were given."""
    return {name: value for name, value in fields.items() if value is not None}


class Many(NamedTuple):
    """The tasks or questions of a command, by their names or by a filter, and how it is done."""

    ids: tuple[str, ...]
    filters: dict[str, Any]
    everything: bool
    dry_run: bool
    limit: int
    yes: bool
    as_json: bool

    @property
    def is_filter(self) -> bool:
        """Whether a filter says which."""
        return bool(self.filters or self.everything)

    @property
    def is_one(self) -> bool:
        """Whether just one is named."""
        return len(self.ids) == 1 and self.ids[0] != "-"

    def require_one_way(self, what: str) -> None:
        """Raises UsageError where not just one of ids, a filter and `--all` says which are meant."""
        names = [name for name in self.filters if name != "kind" or not self.everything]
        ways = [bool(self.ids), bool(names), self.everything]
        if sum(ways) != 1:
            head = "" if not any(ways) else "these exclude each other: "
            text = f"{head}name {what}, or give a filter such as --agent ID, or --all"
            raise click.UsageError(text, click.get_current_context())

    def do(
        self,
        target: Target,
        one: Callable[[Connection, str], Awaitable[Document]],
        act: Callable[..., Awaitable[Sequence[Any]]],
        consequence: str,
        describe: Callable[[Document], str] | None = None,
    ) -> list[Document]:
        """Do something with each that is completion, by `one`, or with all that a filter finds, by `act`.

        Before the latter a person sees how many they are, the `consequence`, and a line for each
        (`describe`).
        """
        on_stdin = sys.stdin.read().split() if "-" in self.ids else []
        ids = [*(part for part in self.ids if part != "-"), *on_stdin]

        async def work(mesh: Connection) -> list[Document]:
            if self.ids:
                return [await one(mesh, part) for part in ids]
            fields = {"everything": self.everything, "limit": self.limit, **self.filters}
            find = partial(act, mesh, **fields)
            return await _confirmed(find, consequence, describe, dry_run=self.dry_run, yes=self.yes)

        return talk(target, work, need="log" if self.dry_run else "change")

    def show(
        self, items: Sequence[Document], sentence: Callable[[Document], str], refused: str, empty: str
    ) -> int:
        """Print a line for each; returns the status of the command: 1 if one was refused."""
        if self.as_json:
            output.echo_json(items)
        elif not items:
            click.echo(empty, err=True)
        for item in () if self.as_json else items:
            name = item.get("id") or item["task_id"]
            if item["refused"]:
                output.say(f"{name}  {refused}: {item['refused']['message']}", err=True)
            else:
                click.echo(f"{name}  {sentence(item)}")
        return int(any(item["refused"] for item in items))


def many_options(
    *statuses: str, everything: str, default: str = "", more: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that is for one or many; it gets them, and its `ids`, as a `Many`.

    `everything` is the help of `--all`; `more` is one more option that says which are meant.
    """
    options = (
        *((more,) if more else ()),
        click.option("--all", "everything", is_flag=True, help=everything),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        limit_option(500, 10_000),
        yes_option,
        filter_options(*statuses, default=default),
        json_option,
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def call(*args: Any, **arguments: Any) -> int:
            filters = {name: arguments.pop(name) for name in [*arguments] if name in _WANTED}
            how = {name: arguments.pop(name) for name in ("everything", "dry_run", "limit", "yes", "as_json")}
            many = Many(arguments.pop("ids", ()), given_filter(filters), **how)
            return command(*args, many=many, **arguments)

        added: Any = call
        for option in reversed(options):
            added = option(added)
        return added

    return add


def by_id(do: Callable[[Connection, str], Awaitable[Document]]) -> Callable[[Connection, str], Any]:
    """The same for an end of a task's id; one that is refused says why, and the others are done."""

    async def one(mesh: Connection, part: str) -> Document:
        task_id = await whole_id(mesh, part)
        try:
            return await do(mesh, task_id)
        except MeshError as error:
            return {"task_id": task_id, "refused": refusal(error)}

    return one


def refusal(error: MeshError) -> Document:
    """An error, as an item of what was done to many has it."""
    return {"type": error.code, "message": str(error)}


async def _confirmed(
    do: Callable[..., Awaitable[Sequence[Any]]],
    consequence: str,
    describe: Callable[[Document], str] | None,
    *,
    dry_run: bool,
    yes: bool,
) -> list[Document]:
    if not (dry_run or yes):
        planned = [output.document(item) for item in await do(dry_run=True)]
        count = sum(item["refused"] is None for item in planned)
        if not count:
            return planned
        if describe is not None:
            for item in planned:
                refused = item["refused"]
                output.say(describe(item) if refused is None else f"not: {refused['message']}", err=True)
        confirm(
            consequence.format(count=count, s="" if count == 1 else "s", are="is" if count == 1 else "are")
        )
    return [output.document(item) for item in await do(dry_run=dry_run)]


async def follow_tasks(
    mesh: Connection, columns: Sequence[Column], filters: Document, *, limit: int, as_json: bool
) -> None:
    """Show the tasks that agree with the filters for as long as the command runs."""
    mesh.require_running()
    draws, drawn = output.is_screen() and not as_json, 0
    states: dict[str, list[Any]] = {}
    while True:
        tasks = [output.document(task) for task in await mesh.client.tasks(limit=limit, **filters)]
        if draws:
            text = output.table(columns, tasks) if tasks else "no such tasks"
            drawn = output.redraw(text.splitlines(), drawn)
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
