"""The commands that show what waits: `mesh status`, and for people `mesh inbox`."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from meshwright.agents.event_types import AgentMissing
from meshwright.cli import output
from meshwright.cli.completion import named
from meshwright.cli.connect import Connection, talk
from meshwright.cli.figures import figures_text
from meshwright.cli.filters import ENDED, OPEN, filter_options, given_filter
from meshwright.cli.options import (
    Target,
    follow_option,
    json_option,
    limit_option,
    mesh_options,
)
from meshwright.cli.output import document, echo_json, is_screen, labelled, redraw, table
from meshwright.core.display import Column, Document, age, ahead, local_time, short, short_id
from meshwright.core.errors import InvalidInput, NotFound
from meshwright.core.schema import described, faults, takes_approval

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.events.inbox import Question

_SHOWN_IDS = 5
_ID_CHARS = 6
_APPROVED = ("arguments", "effect", "difference", "request", "changed_from")  # it is shown whole
_OF_MESH = ("kind", "agent_id", "tool", "hidden_parts")
_LONG_CHARS = 400
_LOOK_SECONDS = 1.0  # between two looks of --follow
_context = click.get_current_context


@click.command("list")
@click.option("--ended", is_flag=True, help="Also those that were answered, or that nothing waits for now.")
@filter_options(*OPEN, *ENDED)
@limit_option(50)
@follow_option
@json_option
@mesh_options
def list_questions(
    target: Target, ended: bool, limit: int, follow: bool, as_json: bool, **of_task: Any
) -> None:
    """List what waits for a person, the oldest first.

    The filters are of the tasks that ask, --since and --until of their last change.
    """
    if follow and ended:
        raise click.UsageError("--follow shows all that is open: leave out --ended", _context())
    wanted = given_filter(of_task)

    async def show(mesh: Connection) -> None:
        if follow:
            await _watch(mesh, wanted, limit, as_json=as_json)
        listed = await mesh.client.inbox(ended=ended, limit=limit, **wanted)
        columns = (*_COLUMNS[:1], Column("status", "status"), *_COLUMNS[1:]) if ended else _COLUMNS
        items = [document(question) for question in listed]
        empty = "no such questions; mesh inbox lists all" if wanted else "nothing waits for a person"
        output.show(items, columns, as_json=as_json, empty=empty)
        if items and not as_json:
            hint = f"mesh inbox ID{mesh.options} shows one whole, with the command that answers it"
            output.say(hint, err=True)

    talk(target, show)


@click.command("show")
@click.argument("question_id", metavar="ID", shell_complete=named("question"))
@click.option(
    "--reveal", is_flag=True, help="Also what it hides as secrets, if you may answer it; that is recorded."
)
@json_option
@mesh_options
def show_question(target: Target, question_id: str, reveal: bool, as_json: bool) -> None:
    """Show one question whole, with the command that answers it.

    ID is the end or the beginning of an id that only one has, or of its task's.
    """

    async def show(mesh: Connection) -> None:
        found = document(question := await find_question(mesh.client, question_id))
        if reveal and question.task_id and not question.source:
            whole = await mesh.client.reveal(question)
            found["subject"] = {**found["subject"], **whole.subject}
            found["question"] = whole.question or found["question"]
        click.echo(json.dumps(found, indent=2) if as_json else _page(found, mesh.options))

    talk(target, show)


async def find_question(client: Client, given: str) -> Question:
    """The question that is meant by an end or a beginning, open or not. Raises NotFound, InvalidInput."""
    for ended in (False, True):
        found = await client.inbox(id=given, ended=ended, limit=_SHOWN_IDS + 1)
        fitting = [question for question in found if question.id == given] or found
        if len(fitting) > 1 and not ended:
            named = ", ".join(f"{short_name(one.id)} ({short(one.question)})" for one in found[:_SHOWN_IDS])
            raise InvalidInput(
                f"{given!r} fits several questions: {named}{', ...' if len(found) > _SHOWN_IDS else ''}",
                remedy="Name one by its own id",
                field="id",
            )
        if fitting:
            return fitting[-1]
    raise NotFound(f"No task has a question {given!r}", remedy="mesh inbox lists those there are", field="id")


def answer_of(schema: Mapping[str, Any] | None, text: str) -> Any:
    """The answer that a text stands for: JSON, if the question takes no text and that is JSON."""
    if schema is None or not faults(schema, text):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # the mesh says what it wants instead


def is_for_money(subject: Mapping[str, Any]) -> bool:
    """Whether a subject is of a task that waits for money; data of an agent's own question is none."""
    return "account" in subject and subject.get("kind") != "question"


def short_name(question_id: str) -> str:
    """The end of an id, by which people name a question."""
    return question_id[-_ID_CHARS:]


def _asked(question: Document) -> str:
    tasks = question.get("tasks", 1)
    return f"{short(question['question'])}{f' ({tasks:,} tasks wait)' if tasks > 1 else ''}"


_COLUMNS = (
    Column("id", "id", short_name),
    Column("age", "since", age),
    Column("task", "task_id", short_id, cut=1, from_end=True),
    Column("agent", "agent_id", cut=2),
    Column("question", write=_asked),
)


async def _watch(mesh: Connection, wanted: dict[str, Any], limit: int, *, as_json: bool) -> None:
    """Show what waits for a person, as long as the command runs: a table that changes on a terminal.

    Elsewhere each question is a line when it comes and another when it ends.
    """
    mesh.require_running()
    draws, drawn = is_screen() and not as_json, 0
    known: dict[str, Document] = {}
    while True:
        listed = await mesh.client.inbox(limit=limit, **wanted)
        found = {question.id: document(question) for question in listed}
        if draws:
            shown = table(_COLUMNS, [*found.values()]) if found else "nothing waits for a person"
            drawn = redraw(shown.splitlines(), drawn)
        else:
            ended = [name for name in known if name not in found] if len(found) < limit else []
            for name in ended:
                ends = await mesh.client.inbox(id=name, ended=True, limit=1)
                _echo_change([document(end) for end in ends], as_json=as_json)
            _echo_change([found[name] for name in found if name not in known], as_json=as_json)
            known = {**known, **found}
            for name in ended:
                del known[name]
        await asyncio.sleep(_LOOK_SECONDS)


def _echo_change(questions: Sequence[Document], *, as_json: bool) -> None:
    for question in questions:
        at = local_time(question.get("ended_at") or question.get("since"))
        by = f"by {question['answered_by']}" if question.get("answered_by") else ""
        cells = (column.cell(question) for column in _COLUMNS if column.field != "since")
        parts = (at, question["status"], by, *cells)
        click.echo(json.dumps(question, ensure_ascii=False) if as_json else "  ".join(filter(None, parts)))


def question_lines(question: Document, options: str) -> Iterator[tuple[str, str]]:
    """The subject of a question and how to answer it, each with its label."""
    yield "asked", question["question"].partition("\nIts effect:\n")[0]  # which comes below, whole
    subject = question.get("subject") or {}
    fields = {name: value for name, value in subject.items() if name not in _OF_MESH}
    if subject.get("kind") == "question":  # the names are not ours: below a label they cannot pass for one
        yield from _lines_of("about", fields)
    else:
        for name, value in fields.items():
            yield from _field(name, value)
    if may_answer := question.get("may_answer"):
        yield "for", ", ".join(may_answer)
    if question.get("expires_at"):
        yield "expires", local_time(question["expires_at"])
    if question["status"] == "open":
        yield from _ways(question, options)


def _field(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if value in (None, "", {}, []):
        return
    if name in _APPROVED:
        yield from _whole(name, value)
    elif len(text := _text(value)) <= _LONG_CHARS:
        yield name, text
    else:
        yield name, f"{text[:_LONG_CHARS]}... ({len(text):,} characters; --json shows all)"


def _whole(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A value that a person approves: texts of several lines, such as diffs, as they are."""
    fields = value.items() if isinstance(value, dict) else [("", value)]
    if not any("\n" in field for _, field in fields if isinstance(field, str)):
        yield name, _text(value)
    else:
        yield from _lines_of(name, dict(fields))


def _lines_of(name: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each field on a line of its own, or on several below it, with the label before the first."""
    for key, field in fields.items():
        first, *rest = _text(field).split("\n")
        title = f"{key}: " if key else ""
        inner = "  " if title else ""  # no line of a text may pass for another field
        lines = [f"{title}|", *(f"{inner}{line}" for line in (first, *rest))] if rest else [f"{title}{first}"]
        for line in lines:
            yield name, line or " "
            name = ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _ways(question: Document, options: str) -> Sequence[tuple[str, str]]:
    name = short_name(question["id"])
    if not (question["task_id"] or question.get("source")):
        return [("test", f"mesh models test{options}")]
    if is_for_money(question.get("subject") or {}):  # it says itself how its budget is raised
        return [("deny", f'mesh deny {name} --reason "..."{options}')]
    if takes_approval(question.get("answer_schema")):
        ways = [("approve", f"mesh approve {name}{options}")]
        asked = (question.get("subject") or {}).get("arguments")
        if asked is not None and "arguments" in question["answer_schema"]["properties"]:
            given = json.dumps(asked, ensure_ascii=False)
            shown = shlex.quote(given if len(given) <= _LONG_CHARS else "{...}")
            ways.append(("change", f"mesh approve {name} --arguments {shown}{options}"))
        return [*ways, ("deny", f'mesh deny {name} --reason "..."{options}')]
    return [("answer", answer_command(question, options))]


def answer_command(question: Document, options: str) -> str:
    """The command that answers a question; where it asks for data, with the form of the answer."""
    schema = question.get("answer_schema")
    text = '"..."' if schema is None or not faults(schema, "...") else shlex.quote(described(schema))
    return f"mesh answer {short_name(question['id'])} {text}{options}"


def _page(question: Document, options: str) -> str:
    rows = [
        ("id", question["id"]),
        ("status", question["status"]),
        ("task", question["task_id"]),
        ("agent", question.get("agent_id") or ""),
        ("since", local_time(question.get("since"))),
        *question_lines(question, options),
    ]
    if question.get("ended_at"):
        by = f"by {question['answered_by']} " if question.get("answered_by") else ""
        rows.append(("ended", f"{by}at {local_time(question['ended_at'])}"))
    return labelled(row for row in rows if row[1])


_ORDER = ("running", "waiting", "dispatched", "accepted")


def _ago(time: str | None) -> str:
    return "" if time is None else f"{age(time)} ago"


def _left_alone(deployment: Document) -> str:
    status = deployment.get("status")
    return f"refused with {status}" if status else "cooling down"


def _open_tasks(tenant: Document) -> str:
    return f"{tenant['open_tasks']:,}{_of(tenant.get('max_open_tasks'), '{:,}'.format)}"


def _stored(tenant: Document) -> str:
    return f"{_megabytes(tenant['stored_bytes'])}{_of(tenant.get('max_storage'), _megabytes)}"


def _of(most: int | None, write: Callable[[int], str]) -> str:
    return "" if most is None else f" of {write(most)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


_WAITS = (
    Column("waits for", "kind"),
    Column("waits", "count"),
    Column("oldest", "oldest", _ago),
    Column("next due", "next_due", ahead),
    Column("reason", "reason", short),
)
_DEPLOYMENTS = (
    Column("left alone", "deployment"),
    Column("is", write=_left_alone),
    Column("since", "since", _ago),
    Column("next try", "until", ahead),
    Column("reason", "reason", short),
)
_HELD = (
    Column("held worker", "worker"),
    Column("agents", "agents", ", ".join),
    Column("since", "since", _ago),
    Column("reason", "reason", short),
)
_PROJECTIONS = (
    Column("list", "name"),
    Column("stands at", "seq"),
    Column("next try", "retry_at", ahead),
    Column("error", "error", short),
)
_LOSSES = (
    Column("database came back older", "at"),
    Column("last event that it had", "last_seq"),
    Column("events are gone up to", "lost_until_seq"),
)
_TENANTS = (
    Column("tenant", "tenant_id"),
    Column("open tasks", write=_open_tasks),
    Column("stored", write=_stored),
)


@click.command()
@json_option
@mesh_options
def status(target: Target, as_json: bool) -> None:
    """Show what is open, what waits, which models are away, and figures of agents."""

    async def ask(mesh: Connection) -> Document:
        found = document(await mesh.client.status())
        with suppress(NotFound):  # a mesh without the part
            found["figures"] = await mesh.client.call("GET", "/figures")
        return found

    found = talk(target, ask)
    echo_json(found) if as_json else click.echo(status_text(found))


def status_text(found: Document) -> str:
    """The text of `mesh status`."""
    counts = found["tasks"]
    known = [name for name in _ORDER if name in counts] + sorted({*counts} - {*_ORDER})
    by_status = ", ".join(f"{counts[name]:,} {name}" for name in known)
    total = sum(counts.values())
    state = found.get("state", "working")
    parts = [] if state == "working" else [f"{state}: nothing begins before mesh release"]
    parts += [f"open tasks: {total:,} ({by_status})" if total else "no open tasks"]
    parts += [table(_WAITS, found["waits"])] if found["waits"] else []
    parts += (
        ["\n".join(AgentMissing.from_payload(agent).sentence for agent in found["missing"])]
        if found.get("missing")
        else []
    )
    parts += [table(_DEPLOYMENTS, found["deployments"])] if found["deployments"] else []
    parts += [table(_HELD, found["held"])] if found.get("held") else []
    parts += [table(_PROJECTIONS, found["projections"])] if found.get("projections") else []
    parts += [table(_LOSSES, found["losses"])] if found.get("losses") else []
    uses = found.get("tenants", ())
    has_limit = any(use.get(limit) is not None for use in uses for limit in ("max_open_tasks", "max_storage"))
    parts += [table(_TENANTS, uses)] if has_limit or len(uses) > 1 else []
    parts += figures_text(found["figures"]) if "figures" in found else []
    return "\n\n".join(parts)
