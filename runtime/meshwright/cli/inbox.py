"""`mesh inbox`: the questions that wait for people, and the commands that answer them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from meshwright.console import output
from meshwright.console.connect import Connection, talk
from meshwright.console.filters import ENDED, OPEN, filter_options, given_filter
from meshwright.console.nouns import completes
from meshwright.console.options import Target, follow_option, json_option, limit_option, mesh_options
from meshwright.console.output import document, is_screen, labelled, redraw, table
from meshwright.console.questions import plain_text, question_lines, short_name
from meshwright.core.display import Column, Document, age, local_time, short, short_id
from meshwright.core.errors import Forbidden, InvalidInput, NotFound

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.engine.events.inbox import Question

_EVERYBODY = "*"  # as in `then`
_SHOWN_IDS = 5
_LOOK_SECONDS = 1.0  # between two looks of --follow
_context = click.get_current_context


@click.command("list")
@click.option(
    "--ended",
    "also_ended",
    is_flag=True,
    help="Also those that were answered, or that nothing waits for now.",
)
@filter_options(*OPEN, *ENDED)
@limit_option(50)
@follow_option
@json_option
@mesh_options
def list_questions(
    target: Target, also_ended: bool, limit: int, follow: bool, as_json: bool, **of_task: Any
) -> None:
    """List what waits for a person: doubts first, then what expires soonest.

    The filters are of the tasks that ask, --since and --until of their last change.
    """
    if follow and also_ended:
        raise click.UsageError("--follow shows all that is open: leave out --ended", _context())
    filters = given_filter(of_task)

    async def show(mesh: Connection) -> None:
        if follow:
            await _watch(mesh, filters, limit, as_json=as_json)
        listed = await mesh.client.inbox(ended=also_ended, limit=limit, **filters)
        columns = (*_COLUMNS[:1], Column("status", "status"), *_COLUMNS[1:]) if also_ended else _COLUMNS
        items = _by_haste([document(question) for question in listed])
        empty = "no such questions; mesh inbox lists all" if filters else "nothing waits for a person"
        output.show(items, columns, as_json=as_json, empty=empty)
        if items and not as_json:
            hint = f"mesh inbox ID{mesh.options} shows one whole, with the command that answers it"
            output.say(hint, err=True)

    talk(target, show)


@click.command("show")
@click.argument("question_id", metavar="ID", shell_complete=completes("question"))
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
        view = document(question := await find_question(mesh.client, question_id))
        if reveal and question.task_id and not question.source:
            whole = await mesh.client.reveal(question)
            view["subject"] = {**view["subject"], **whole.subject}
            view["question"] = whole.question or view["question"]
        request = await _request(mesh.client, view) if not as_json and _is_doubt(view) else ""
        click.echo(json.dumps(view, indent=2) if as_json else _page(view, request, mesh.options))

    talk(target, show)


async def find_question(client: Client, part: str) -> Question:
    """The question that is meant by an end or a beginning, open or not. Raises NotFound, InvalidInput."""
    for also_ended in (False, True):
        questions = await client.inbox(id=part, ended=also_ended, limit=_SHOWN_IDS + 1)
        fitting = [question for question in questions if question.id == part] or questions
        if len(fitting) > 1 and not also_ended:
            names = ", ".join(
                f"{short_name(one.id)} ({short(one.question)})" for one in questions[:_SHOWN_IDS]
            )
            more = ", ..." if len(questions) > _SHOWN_IDS else ""
            problem = f"{part!r} fits several questions: {names}{more}"
            raise InvalidInput(problem, remedy="Name one by its own id", field="id")
        if fitting:
            return fitting[-1]
    raise NotFound(f"No task has a question {part!r}", remedy="mesh inbox lists those there are", field="id")


def _asked(question: Document) -> str:
    tasks = question.get("tasks", 1)
    claimed = f"({question['claimed_by']} is looking) " if question.get("claimed_by") else ""
    reminded = f"(reminded{_escalated(question)}) " if question.get("reminded_at") else ""
    return f"{claimed}{reminded}{short(_title(question))}{f' ({tasks:,} tasks wait)' if tasks > 1 else ''}"


def _claim(question: Document) -> str:
    if not question.get("claimed_by"):
        return ""
    return f"{question['claimed_by']} is looking, until {local_time(question['claimed_until'])}"


def _reminded(question: Document) -> str:
    if not question.get("reminded_at"):
        return ""
    return f"{local_time(question['reminded_at'])}{_escalated(question)}"


def _escalated(question: Document) -> str:
    names = ["everybody" if name == _EVERYBODY else name for name in question.get("escalated_to") or ()]
    return f", and {', '.join(names)} asked as well" if names else ""


def _title(question: Document) -> str:
    """The call that a question is about, or its step in doubt; else the question: questions begin alike."""
    subject = question.get("subject") or {}
    kind = subject.get("kind")
    if kind == "approval" and subject.get("tool"):
        return f"{subject['tool']}: {_in_line(subject.get('arguments'))}".removesuffix(": ")
    if kind and "request" in subject:
        evidence = f"; its check saw: {subject['check']}" if subject.get("check") else ""
        return f"in doubt: {kind.removeprefix('tool ')} {_in_line(subject['request'])}".rstrip() + evidence
    return str(question["question"])


def _in_line(arguments: Any) -> str:
    """Arguments as the page shows them: a text that comes first speaks for itself, the others have names."""
    if not isinstance(arguments, dict):
        return ""
    first = next(iter(arguments), None)
    is_plain = isinstance(arguments.get(first), str)
    return ", ".join(
        plain_text(value) if name == first and is_plain else f"{name} {plain_text(value)}"
        for name, value in arguments.items()
    )


_COLUMNS = (
    Column("id", "id", short_name),
    Column("age", "since", age),
    Column("task", "task_id", short_id, cut=1, from_end=True),
    Column("agent", "agent_id", cut=2),
    Column("question", write=_asked),
)


async def _watch(mesh: Connection, filters: dict[str, Any], limit: int, *, as_json: bool) -> None:
    """Show what waits for a person, as long as the command runs: a table that changes on a terminal.

    Elsewhere each question is a line when it comes and another when it ends.
    """
    mesh.require_running()
    draws, drawn = is_screen() and not as_json, 0
    before: dict[str, Document] = {}
    while True:
        listed = await mesh.client.inbox(limit=limit, **filters)
        questions = {question["id"]: question for question in _by_haste([document(one) for one in listed])}
        if draws:
            text = table(_COLUMNS, [*questions.values()]) if questions else "nothing waits for a person"
            drawn = redraw(text.splitlines(), drawn)
        else:
            ids = [name for name in before if name not in questions] if len(questions) < limit else []
            for name in ids:
                ends = await mesh.client.inbox(id=name, ended=True, limit=1)
                _echo_change([document(end) for end in ends], as_json=as_json)
            _echo_change([questions[name] for name in questions if name not in before], as_json=as_json)
            before = {**before, **questions}
            for name in ids:
                del before[name]
        await asyncio.sleep(_LOOK_SECONDS)


def _echo_change(questions: Sequence[Document], *, as_json: bool) -> None:
    for question in questions:
        at = local_time(question.get("ended_at") or question.get("since"))
        by = f"by {question['answered_by']}" if question.get("answered_by") else ""
        cells = (column.cell(question) for column in _COLUMNS if column.field != "since")
        parts = (at, question["status"], by, *cells)
        click.echo(json.dumps(question, ensure_ascii=False) if as_json else "  ".join(filter(None, parts)))


def _is_doubt(question: Document) -> bool:
    from meshwright.engine.work.people import is_doubt

    return not question.get("source") and is_doubt(question["wait_id"])


def _by_haste(questions: Sequence[Document]) -> list[Document]:
    """Doubts first, then what expires soonest, then the oldest, as on the page."""
    last = datetime.max.replace(tzinfo=UTC)

    def haste(question: Document) -> tuple[bool, datetime]:
        end = question.get("expires_at")
        return not _is_doubt(question), datetime.fromisoformat(end) if end else last

    return sorted(questions, key=haste)


async def _request(client: Client, question: Document) -> str:
    """The request of the task that asks; none for those who may not read it."""
    try:
        payload = (await client.task(question["task_id"])).payload
    except Forbidden:
        return ""
    text = payload["text"] if [*payload] == ["text"] else payload
    return short(plain_text(text))


def _page(question: Document, request: str, options: str) -> str:
    rows = [
        ("id", question["id"]),
        ("status", question["status"]),
        ("task", question["task_id"]),
        ("agent", question.get("agent_id") or ""),
        ("since", local_time(question.get("since"))),
        ("claimed", _claim(question)),
        ("reminded", _reminded(question)),
        ("request", request),
        *question_lines(question, options),
    ]
    if question.get("ended_at"):
        by = f"by {question['answered_by']} " if question.get("answered_by") else ""
        rows.append(("ended", f"{by}at {local_time(question['ended_at'])}"))
    return labelled(row for row in rows if row[1])
