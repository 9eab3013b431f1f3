"""`mesh inbox`, and its commands that claim a question, and answer one or many: approve, deny and answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.inbox import find_question, list_questions, show_question
from meshwright.console.connect import Connection, talk
from meshwright.console.filters import OPEN, Many, many_options, refusal
from meshwright.console.nouns import Noun, completes
from meshwright.console.options import JSON_OBJECT, JSON_VALUE, Target, from_stdin, mesh_options, utf8
from meshwright.console.output import document
from meshwright.console.questions import answer_command, is_for_money, parse_answer, short_name
from meshwright.core.display import Document, local_time, printable, short
from meshwright.core.errors import Conflict, InvalidInput, MeshError
from meshwright.core.schema import takes_approval

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.engine.events.inbox import Question
    from meshwright.engine.work.record import TaskView

_context = click.get_current_context
_ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=completes("question"))


_many_options = many_options(
    *OPEN,
    everything="All that are open.",
    more=click.option(
        "--kind",
        metavar="KIND",
        help="Only of this kind, as --dry-run shows it; questions of several kinds are not answered at once.",
    ),
)

_anyway_option = click.option(
    "--anyway", is_flag=True, help="Also a question that somebody else has claimed: `mesh inbox ID` says who."
)

_AnswerOne = Callable[["Question", Connection], Awaitable[str]]
"""Answers one question, and says so."""


async def _answer_named(
    mesh: Connection, name: str, one: _AnswerOne, value: Any, kinds: list[str], *, dry_run: bool
) -> Document:
    """Answer one of several that are named; `kinds` begins with the kind of the first, which all are of."""
    from meshwright.engine.events.answers import check_alone

    try:
        question = await _find_open(mesh.client, name)
        check_alone(question, value)
        kinds.append(question.kind)
        if question.kind != kinds[0]:
            raise Conflict(
                f"It is of the kind {question.kind!r}, and the first of {kinds[0]!r}: an answer is for one",
                remedy="Answer it apart",
                field="id",
            )
        if not dry_run:
            await one(question, mesh)
    except MeshError as error:
        return {"id": name, "refused": refusal(error)}
    view = document(question)
    return {
        **{field: view[field] for field in ("id", "task_id", "question")},
        "is_dry": dry_run,
        "refused": None,
    }


def _told_answered(question: Document) -> str:
    verb = "would be answered" if question["is_dry"] else "answered"
    kind = f"  [{question['kind']}]" if question["is_dry"] and question.get("kind") else ""
    return f"{verb}: {short(question['question'])}{kind}"


def _planned(question: Document) -> str:
    """All of a question, for who is about to answer it with others."""
    return f"{short_name(question['id'])}  {printable(question['question'])}"


@click.command()
@_ids_argument
@click.option("--reason", metavar="TEXT", callback=utf8, help="Why; it is recorded.")
@click.option(
    "--arguments",
    type=JSON_OBJECT,
    metavar="JSON",
    help="Run the call with these arguments instead, all of them; for one call alone.",
)
@_anyway_option
@_many_options
@mesh_options
def approve(
    target: Target, many: Many, reason: str | None, arguments: Document | None, *, anyway: bool
) -> int:
    """Approve what tasks wait for.

    \b
    mesh approve 8GK2F                                  one question, by an end of its id
    mesh approve 8GK2F --arguments '{"env": "test"}'    a call with other arguments
    mesh approve --agent coder --text invoice           all of one kind that agree with the filters

    ID is as `mesh inbox` shows it, or the id of a task that has one question; - reads ids from stdin.
    """
    if arguments is None:
        return _decide(target, many, {"approve": True}, reason, anyway=anyway)
    if not many.is_one:
        raise click.UsageError("--arguments are for one call: name its ID alone", _context())
    return _decide(target, many, {"approve": True, "arguments": arguments}, reason, anyway=anyway)


@click.command()
@_ids_argument
@click.option("--reason", metavar="TEXT", required=True, callback=utf8, help="Why not; the agent gets it.")
@_anyway_option
@_many_options
@mesh_options
def deny(target: Target, many: Many, reason: str, *, anyway: bool) -> int:
    """Deny what tasks ask approval for.

    The agent gets the reason. Denied money for a budget, all tasks that wait for it fail. ID is as
    `mesh inbox` shows it, or the id of a task that has one question; - reads ids from stdin. With filters it
    is for all open questions of one kind.
    """
    return _decide(target, many, {"approve": False}, reason, anyway=anyway)


@click.command()
@click.argument("words", metavar="[ID] [TEXT]", nargs=-1, shell_complete=completes("question"))
@click.option("--value", type=JSON_VALUE, metavar="JSON", help="The answer as JSON, not as text.")
@_anyway_option
@_many_options
@mesh_options
def answer(
    target: Target, words: tuple[str, ...], many: Many, value: tuple[Any] | None, *, anyway: bool
) -> int:
    """Answer what tasks wait for.

    \b
    mesh answer 8GK2F "Yes, in blue."   one question, by an end of its id
    mesh answer - "yes" < ids.txt       those on stdin
    mesh answer --agent coder "yes"     all of one kind that agree with the filters

    ID is as `mesh inbox` shows it, or the id of a task that has one question. TEXT is the answer; - reads it
    from stdin. TEXT may be JSON if the question asks for data.
    """
    ids, texts = ((), words) if many.is_filter else (words[:1], words[1:])
    if len(texts) != (value is None):
        raise click.UsageError("give the answer either as TEXT or with --value JSON", _context())
    text = from_stdin(_context(), click.Argument(["text"]), texts[0]) if texts else None
    argument = value[0] if value is not None else text

    async def one(question: Question, mesh: Connection) -> str:
        shaped = argument if text is None else parse_answer(question.answer_schema, text)
        view = await mesh.client.answer(question, shaped, anyway=anyway)
        return _sent("answered", question, view, mesh)

    return _answer(target, many._replace(ids=ids), one, argument, anyway=anyway)


def _answer(target: Target, many: Many, one: _AnswerOne, value: Any, *, anyway: bool) -> int:
    """Answer one question, and say how its task goes on; or many, with a line for each."""
    many.require_one_way("a question")
    if not many.is_one or many.dry_run or many.as_json:
        return _answer_many(target, many, one, value, anyway=anyway)

    async def send(mesh: Connection) -> str:
        return await one(await _find_open(mesh.client, many.ids[0]), mesh)

    click.echo(talk(target, send, need="change"))
    return 0


def _answer_many(target: Target, many: Many, one: _AnswerOne, value: Any, *, anyway: bool) -> int:
    kinds = list[str]()

    async def named_one(mesh: Connection, name: str) -> Document:
        return await _answer_named(mesh, name, one, value, kinds, dry_run=many.dry_run)

    async def found(mesh: Connection, **fields: Any) -> list[Any]:
        return await mesh.client.answer_all(value, anyway=anyway, **fields)

    results = many.do(target, named_one, found, "{count} question{s} {are} answered.", _planned)
    empty = "no such open questions; mesh inbox lists what waits for a person"
    return many.show(results, _told_answered, "not answered", empty)


def _decide(target: Target, many: Many, decision: Document, reason: str | None, *, anyway: bool) -> int:
    answer = {**decision, "reason": reason} if reason else decision

    async def one(question: Question, mesh: Connection) -> str:
        takes = takes_approval(question.answer_schema) or (is_for_money(question.subject) and reason)
        if question.status == "open" and decision["approve"] and is_for_money(question.subject):
            raise InvalidInput(
                f"{short_name(question.id)} waits for money: {question.question}",
                remedy=f"mesh budgets raise adds some, mesh deny {short_name(question.id)} says no",
                field="id",
            )
        if question.status == "open" and not takes:
            raise InvalidInput(
                f"{short_name(question.id)} asks a question, not for approval: {question.question}",
                remedy=f"Answer it: {answer_command(document(question), mesh.options)}",
                field="id",
            )
        view = await mesh.client.answer(question, answer, anyway=anyway)
        arguments = decision.get("arguments")
        how = "" if arguments is None else f" with {short(json.dumps(arguments, ensure_ascii=False))} instead"
        return _sent(f"approved{how}" if decision["approve"] else "denied", question, view, mesh)

    return _answer(target, many, one, answer, anyway=anyway)


async def _find_open(client: Client, part: str) -> Question:
    """The question to answer. Raises what `_find` raises, and Conflict for a task that asks nothing now.

    An ended question that is named itself is found too: the mesh says how it ended.
    """
    question = await find_question(client, part)
    if not question.takes_answer:
        raise InvalidInput(
            f"{short_name(question.id)} asks nothing: {question.question}",
            remedy="Mend the key, the credit or the model's name, then run: mesh models test",
            field="id",
        )
    if question.status == "open" or question.id.startswith(part) or question.id.endswith(part):
        return question
    raise Conflict(
        f"Task {question.task_id} does not wait for a person now",
        remedy=f"mesh inbox {short_name(question.id)} shows what it asked before",
        field="id",
    )


def _sent(verb: str, question: Question, view: TaskView | None, mesh: Connection) -> str:
    if question.source == "memory":
        undo = f"mesh memory undo {question.id}{mesh.options}"
        return f"{verb}: {short(question.question)}\n{undo} takes that back"
    if question.source:
        return f"{verb}: {short(question.question)}"
    if is_for_money(question.subject):
        tasks = "1 task fails" if question.tasks == 1 else f"{question.tasks:,} tasks fail"
        return f"{verb}: {short(question.question)}\n{tasks}"
    goes_on = "goes on" if mesh.is_running else f"goes on with the next mesh up{mesh.options}"
    if view is not None and view.missing_agent is not None:
        goes_on = f"goes on once its agent {view.missing_agent} is loaded: start a mesh with its file"
    return f"{verb}: {short(question.question)}\ntask {question.task_id} {goes_on}"


@click.command()
@click.argument("question_id", metavar="ID", shell_complete=completes("question"))
@mesh_options
def claim(target: Target, question_id: str) -> None:
    """Say that you are looking at a question.

    Answers of others are refused meanwhile, unless they say --anyway. It ends with the answer, after
    [inbox] claim_seconds, or by `mesh inbox release ID`; claim it again to renew that.
    """

    async def send(mesh: Connection) -> str:
        question = await find_question(mesh.client, question_id)
        claimed = document(await mesh.client.claim(question))
        return f"claimed until {local_time(claimed['claimed_until'])}: {short(question.question)}"

    click.echo(talk(target, send, need="change"))


@click.command()
@click.argument("question_id", metavar="ID", shell_complete=completes("question"))
@mesh_options
def release(target: Target, question_id: str) -> None:
    """End your claim of a question."""

    async def send(mesh: Connection) -> str:
        question = await find_question(mesh.client, question_id)
        await mesh.client.release_claim(question)
        return f"released: {short(question.question)}"

    click.echo(talk(target, send, need="change"))


@click.group(cls=Noun)
def inbox() -> None:
    """List what waits for a person, show one, answer it.

    `mesh inbox` lists it, `mesh inbox ID` shows one question whole. ID is the end or the beginning of an id
    that only one has, or of its task's.
    """


for command in (list_questions, show_question, claim, release, approve, deny, answer):
    inbox.add_command(command)
