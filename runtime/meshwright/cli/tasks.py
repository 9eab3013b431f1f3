"""`mesh tasks`, `mesh task`, `mesh cancel` and `mesh answer`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import from_stdin, json_option, mesh_options
from meshwright.errors import InvalidInput

if TYPE_CHECKING:
    from meshwright.cli.output import Document
    from meshwright.work.record import TaskView

_SHORTEN = ("task", "model", "created", "capability", "agent")
_STATUSES = ["accepted", "dispatched", "running", "waiting", "succeeded", "failed", "cancelled", "timed_out"]
_WHOLE_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")  # an id that the mesh made
_SHOWN_IDS = 5
_LABEL_WIDTH = 11


@click.command()
@click.option(
    "--status", type=click.Choice(_STATUSES), metavar="STATUS", help=f"One of {', '.join(_STATUSES)}."
)
@click.option("--capability", metavar="NAME", help="Only tasks that ask for this capability.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many to show.")
@json_option
@mesh_options
def tasks(
    status: Any, capability: str | None, limit: int, as_json: bool, url: str | None, data: Path | None
) -> None:
    """List tasks, newest first."""
    from meshwright.cli.output import documents, echo_json

    async def find(mesh: Connection) -> list[Document]:
        return documents(await mesh.client.tasks(status=status, capability=capability, limit=limit))

    found = talk(url, data, find)
    if as_json:
        echo_json(found)
    elif found:
        click.echo(_table(found))
    else:
        click.echo('no such tasks; mesh ask AGENT "..." makes one', err=True)


@click.command()
@click.argument("task_id", metavar="ID")
@json_option
@mesh_options
def task(task_id: str, as_json: bool, url: str | None, data: Path | None) -> None:
    """Show one task with its attempts and outcome.

    ID may be the end or the beginning of an id that only one task has.
    """

    async def show(mesh: Connection) -> str:
        return await _page(mesh, await mesh.client.task(await whole_id(mesh, task_id)), as_json=as_json)

    click.echo(talk(url, data, show, need="state"))


@click.command()
@click.argument("task_id", metavar="ID")
@json_option
@mesh_options
def cancel(task_id: str, as_json: bool, url: str | None, data: Path | None) -> None:
    """Cancel a task.

    A task that has ended stays as it is. ID may be the end or the beginning of an id that only one task has.
    """

    async def end(mesh: Connection) -> str:
        return await _page(mesh, await mesh.client.cancel(await whole_id(mesh, task_id)), as_json=as_json)

    click.echo(talk(url, data, end, need="change"))


class _JsonValue(click.ParamType[Any]):
    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it, or say where it stops being JSON."""
        try:
            return (json.loads(value),)  # in a tuple: null is a value too
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("key")
@click.argument("text", required=False, callback=from_stdin)
@click.option("--json", "value", type=_JsonValue(), metavar="VALUE", help="The answer as JSON, not as text.")
@mesh_options
def answer(
    task_id: str, key: str, text: str | None, value: tuple[Any] | None, url: str | None, data: Path | None
) -> None:
    """Answer what a task waits for.

    mesh task ID shows the KEY and the question. TEXT is the answer in words; - reads it from stdin. ID and
    KEY may be an end or a beginning that only one has.
    """
    if (text is None) == (value is None):
        raise click.UsageError(
            "give the answer either as TEXT or with --json VALUE", click.get_current_context()
        )

    async def send(mesh: Connection) -> str:
        whole = await whole_id(mesh, task_id)
        asked = await mesh.client.events(limit=100, task_id=whole, event_type="task.waiting")
        waits_for = one_of(key, (str(event.payload.get("key") or "") for event in asked), "key")
        view = await mesh.client.answer(whole, waits_for, text if value is None else value[0])
        return await _page(mesh, view, as_json=False)

    click.echo(talk(url, data, send, need="change"))


async def whole_id(mesh: Connection, given: str) -> str:
    """The id of the task that is meant by an end or a beginning. Raises InvalidInput if several are.

    One that nothing fits is returned as it is: the mesh says that it does not know it.
    """
    if _WHOLE_ID.fullmatch(given):
        return given
    found = await mesh.client.tasks(limit=_SHOWN_IDS + 1, task_id=given)
    return one_of(given, (task.task_id for task in found), "task")


def one_of(given: str, known: Iterable[str], what: str) -> str:
    """The one of the known ids that is, begins or ends so. Raises InvalidInput if several do."""
    fitting = list(dict.fromkeys(name for name in known if name.startswith(given) or name.endswith(given)))
    if given in fitting or not fitting:
        return given
    if len(fitting) > 1:
        more = ", ..." if len(fitting) > _SHOWN_IDS else ""
        raise InvalidInput(
            f"{given!r} fits several ids of a {what}: {', '.join(fitting[:_SHOWN_IDS])}{more}",
            remedy="give more of it",
            field=f"{what}_id",
        )
    return fitting[0]


def _table(found: list[Document]) -> str:
    from meshwright.cli.output import dollars, local_time, table

    rows = [
        [
            task["task_id"],
            task["status"],
            task.get("capability") or "",
            task.get("agent_id") or "",
            local_time(task.get("created_at")),
            task.get("model") or "",
            dollars(task.get("cost_usd")),
        ]
        for task in found
    ]
    return table(
        ["task", "status", "capability", "agent", "created", "model", "cost"], rows, shorten=_SHORTEN
    )


async def _page(mesh: Connection, view: TaskView, *, as_json: bool) -> str:
    """A task as a person, or a program, reads it: its attempts, how it ended, and last its answer."""
    from meshwright.cli.output import document, for_terminal, printable

    shown = document(view)
    if as_json:
        return json.dumps(shown, ensure_ascii=False, indent=2)
    rows = [*_rows(shown), *await _waiting(mesh, view)]
    rows.append(("events", f"mesh events --task {view.task_id}{mesh.options}"))
    lines = [f"{label:<{_LABEL_WIDTH}} {printable(text)}".rstrip() for label, text in rows]
    text = view.outcome.text if view.outcome else ""
    return "\n".join([*lines, *(["", for_terminal(text)] if text else [])])


def _rows(view: Document) -> Iterator[tuple[str, str]]:
    from meshwright.cli.output import local_time, short

    yield "task", view["task_id"]
    yield "status", view["status"]
    yield "capability", view["capability"]
    yield "request", short(view["payload"].get("text") or "")
    yield "created", local_time(view["created_at"])
    for number, attempt in enumerate(view["attempts"], start=1):
        yield f"attempt {number}", _attempt(attempt)
    if outcome := view["outcome"]:
        yield "outcome", _outcome(outcome)


async def _waiting(mesh: Connection, view: TaskView) -> list[tuple[str, str]]:
    """What a waiting task asks, and what to type; another task's answer comes by itself."""
    if view.status != "waiting":
        return []
    asked = await mesh.client.events(limit=1, task_id=view.task_id, event_type="task.waiting")
    if not asked:
        return []
    waiting = asked[-1].payload
    if child := waiting.get("child_task_id"):
        return [("waits for", f"task {child}")]
    key = str(waiting.get("key"))
    typed = f'mesh answer {view.task_id} {shlex.quote(key)} "..."{mesh.options}'
    return [("waits for", key), ("asked", "  ".join(_asked(waiting))), ("answer", typed)]


def _asked(waiting: Document) -> Iterator[str]:
    from meshwright.cli.output import short

    for name, value in waiting.items():
        if name not in ("key", "attempt", "fence") and value not in (None, "", {}):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield short(text if name == "asked" else f"{name}={text}")


def _attempt(attempt: Document) -> str:
    from meshwright.cli.event_lines import fault, score

    parts = [attempt["agent_id"], score(attempt.get("score_card")), fault(attempt.get("error"))]
    return "  ".join(part for part in parts if part)


def _outcome(outcome: Document) -> str:
    from meshwright.cli.event_lines import fault, finish
    from meshwright.cli.output import dollars, seconds, tokens

    parts = [
        outcome["status"],
        seconds(outcome.get("duration_ms")),
        str(outcome.get("model") or ""),
        tokens(outcome.get("usage")),
        dollars(outcome.get("cost_usd")),
        finish(outcome.get("finish_reason")),
        fault(outcome.get("error")),
    ]
    return "  ".join(part for part in parts if part)
