"""The page of a task and of its files, what its agent did step by step, and what was said at one step."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.console import output
from meshwright.console.output import answer_text, document, for_terminal, labelled
from meshwright.core import display
from meshwright.core.display import (
    Column,
    Document,
    dollars,
    fault,
    file_line,
    finish,
    join,
    local_time,
    printable,
    score,
    short,
    short_id,
)
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.core.money import TASK_BUDGET
from meshwright.money.display import render_spent

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.console.connect import Connection
    from meshwright.core.events import Event
    from meshwright.core.files import TaskFile
    from meshwright.engine.work.protocol import Wait
    from meshwright.engine.work.record import TaskView

_MAX_CHARS = 20_000  # of one text of a step, on a terminal
_EXPORTED_CHARS = 4_194_304  # of one text, in JSON
_PATH = re.compile(r"[A-Za-z0-9]+(\.[A-Za-z0-9]+)*")
_MAX_PROGRESS_LINES = 5
_INDENT = "  "
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_MAX_NAME_BYTES = 200
_Line = tuple[str, str]


def step_path(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The path of a step as it was typed; "" for all of them. Raises BadParameter."""
    if value and not _PATH.fullmatch(value):
        raise click.BadParameter("a step is a number, or a path such as 3.1", ctx, param)
    return value


async def show_steps(
    mesh: Connection, task_id: str, path: str, attempt: int | None, *, as_json: bool
) -> None:
    """Print the steps of a task, or one with all that was said; as JSON each is one line."""
    client = mesh.client
    if path:
        max_chars = _EXPORTED_CHARS if as_json else _MAX_CHARS
        view = document(await client.step(task_id, path, attempt=attempt, max_chars=max_chars))
        click.echo(json.dumps(view, ensure_ascii=False) if as_json else "\n".join(_page(view, mesh.options)))
    elif as_json:
        async for step in client.transcript(task_id, attempt=attempt, max_chars=_EXPORTED_CHARS):
            click.echo(json.dumps(document(step), ensure_ascii=False))
    else:
        steps = [document(step) for step in await client.steps(task_id, attempt=attempt)]
        taken = {(step["attempt"], step["path"]) for step in steps}
        for step in steps:  # by which it can be named too, where no path is that number
            number = str(step["number"])
            step["number"] = "" if (step["attempt"], number) in taken else number
        columns = [column for column in _COLUMNS if _is_needed(column, steps)]
        empty = f"no steps yet; mesh events --task {task_id}{mesh.options} shows what happened"
        output.show(steps, columns, as_json=False, empty=empty)
        if steps:
            more = f"mesh task {task_id} --steps N{mesh.options} shows one in full"
            click.echo(more, err=True)


def _tokens(usage: Any) -> str:
    usage = usage or {}
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return f"{prompt:,} + {completion:,}" if prompt or completion else ""


def _cached(step: Document) -> str:
    if step["cache_hit"]:
        return "all"
    usage = step.get("usage") or {}
    prompt, cached = usage.get("prompt_tokens", 0), usage.get("cached_tokens", 0)
    return f"{cached / prompt:.0%}" if prompt and cached else ""


def _seconds(duration_ms: Any) -> str:
    return "" if duration_ms is None else f"{duration_ms / 1000:.2f}"


def _time_of_day(text: str | None) -> str:
    return local_time(text)[len("2026-11-20 ") :][: len("09:31:02")]


def _cost(step: Document) -> str:
    return dollars(step["cost_usd"]) if step["calls"] else ""


def _what(step: Document) -> str:
    """The kind of a step with its name: `model`, `tool read_file`."""
    name = "" if step["kind"] in ("model", "context", "delegate") else step["name"]
    return f"{step['kind']} {name}".strip() if step["kind"] != "step" else name


def _short_what(step: Document) -> str:
    return f"{step['name']}()" if step["kind"] == "tool" else _what(step)


def _status(step: Document) -> str:
    if step.get("is_copied"):
        return "copied"
    return "" if step["status"] == "done" else step["status"]


def _summary(step: Document) -> str:
    is_known = step["has_contents"] or step["summary"] or step["status"] in ("waiting", "unfinished")
    child = short_id(step["child_task_id"]) if step.get("child_task_id") else ""
    name = f"{step['name']} {child}: " if step["kind"] == "delegate" else ""
    return f"{name}{step['summary']}" if is_known else "(what was said is not stored any more)"


_COLUMNS = (
    Column("attempt", "attempt", str),
    Column("step", "path"),
    Column("number", "number"),
    Column("started", "started_at", _time_of_day, cut=3),
    Column("what", write=_short_what, cut=5),
    Column("", write=_status),
    Column("model", "model", cut=1),
    Column("tokens", "usage", _tokens),
    Column("cached", write=_cached, cut=2),
    Column("cost", write=_cost),
    Column("seconds", "duration_ms", _seconds, cut=4),
    Column("", write=_summary),
)


def _is_needed(column: Column, steps: Sequence[Document]) -> bool:
    """Whether a column has text; that of the attempt is needed where there are several."""
    cells = {column.cell(step) for step in steps}
    return len(cells) > 1 if column.field == "attempt" else cells != {""}


def _page(step: Document, options: str) -> Iterator[str]:
    rows = [
        ("step", f"{step['path']} of attempt {step['attempt']}, by {step['agent_id']}"),
        ("what", f"{_what(step)}{', ' if _status(step) else ''}{_status(step)}"),
        ("error", step["error"] or ""),
        ("model", _listed([step["model"] or "", *_settings(step["request"] or {})])),
        ("prompt", printable(step["prompt"] or "")),
        ("spent", _listed(_spent(step))),
        ("started", local_time(step["started_at"])),
        ("ended", local_time(step["ended_at"])),
        ("task", f"mesh task {step['child_task_id']} --steps{options}" if step["child_task_id"] else ""),
    ]
    rows += [("note", note) for note in step["notes"]]
    yield labelled(row for row in rows if row[1])
    messages, new = step["messages"], step["new_messages"]
    for number, message in enumerate(messages, start=1):
        is_new = "" if new == len(messages) or number <= len(messages) - new else " (new)"
        yield from _message(f"told {number}: {message.get('role', '')}{is_new}", message)
    if step["reply"] is not None:
        yield from _message("said", step["reply"])
    if step["arguments"] is not None:
        yield from _section("arguments", _text(step["arguments"]))
    if step["result"] is not None:
        yield from _result(step["result"])


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)


def _settings(request: Document) -> Iterator[str]:
    if tags := request.get("tags"):
        yield f"tags {' '.join(tags)}"
    if request.get("max_tokens") is not None:
        yield f"max_tokens {request['max_tokens']}"
    if request.get("temperature") is not None:
        yield f"temperature {display.number(request['temperature'])}"
    if tools := request.get("tools"):
        yield f"tools {', '.join(tool.get('name', '') for tool in tools)}"


def _spent(step: Document) -> Iterator[str]:
    if step["calls"]:
        yield display.tokens(step["usage"])
        if cached := _cached(step):
            yield f"{cached} of it cached"
        yield _cost(step)
        yield step["finish_reason"] or ""
    if step["duration_ms"] is not None:
        yield display.seconds(step["duration_ms"])


def _message(title: str, message: Document) -> Iterator[str]:
    content = message.get("content") or ""
    parts = [_text(block) for block in message.get("thinking") or ()]
    parts += [_text(content)] if content else []
    parts += [part.get("text") or f"[{part.get('type')}]" for part in message.get("parts") or ()]
    parts += [file_line(file) for file in message.get("files") or ()]
    parts += [f"{call.get('name')}({call.get('arguments')})" for call in message.get("tool_calls") or ()]
    yield from _section(title, "\n".join(parts))


def _result(result: Any) -> Iterator[str]:
    """The result of a step; a field of several lines, such as a prompt, is shown as text."""
    texts = (
        {name: text for name, text in result.items() if _has_lines(text)} if isinstance(result, dict) else {}
    )
    rest = {name: value for name, value in result.items() if name not in texts} if texts else result
    if rest not in ({}, None):
        yield from _section("result", _text(rest))
    for name, text in texts.items():
        yield from _section(f"result: {name}", text)


def _has_lines(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value.strip()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def _section(title: str, text: str) -> Iterator[str]:
    yield ""
    yield output.styled(title, bold=True)
    width = max(40, shutil.get_terminal_size().columns if output.terminal_width() else 10**6)
    for line in for_terminal(text).splitlines():
        indent = _INDENT + line[: len(line) - len(line.lstrip())]
        wrapped = textwrap.wrap(
            line, width, initial_indent=_INDENT, subsequent_indent=indent, drop_whitespace=False
        )
        yield from (part.rstrip() for part in wrapped or [""])


def file_rows(files: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The files of an outcome, each with its number."""
    for number, file in enumerate(files, start=1):
        yield f"file {number}", file_line(file)


async def save_files(client: Client, task_id: str, files: Sequence[TaskFile], folder: Path) -> None:
    """Write the files of an outcome into a folder, and say where; what is there already stays as it is.

    Files that are elsewhere are named by their URL. Raises InvalidInput where there is none, and ConfigError
    where the folder cannot be written.
    """
    if not files:
        raise InvalidInput(f"Task {task_id} has no files", remedy=f"mesh task {task_id} shows it")
    for number, listed in enumerate(files, start=1):
        file = await client.file(task_id, number)
        if file.url:
            click.echo(printable(f"{file.name} is not the mesh's to save: {listed.url}"), err=True)
            continue
        try:
            click.echo(printable(str(_write(folder, file.name, file.data))))
        except OSError as error:
            raise ConfigError(
                f"{file.name} cannot be saved in {folder}: {error.strerror}",
                remedy="Name another --save folder",
            ) from error


def _write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file under its name, with a number where that is taken; returns where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = folder / _safe_name(name, number)
        try:
            with path.open("xb") as file:  # neither over another file, nor through a link
                file.write(data)
        except FileExistsError:
            if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
                return path
        else:
            return path
    raise AssertionError


def _safe_name(name: str, number: int) -> str:
    """A name that is one inside any folder, on any system."""
    plain = _NOT_IN_NAMES.sub("_", name).strip(". ") or "file"
    stem, dot, kind = plain.rpartition(".")
    if not dot or len(kind.encode()) > 16:
        stem, dot, kind = plain, "", ""
    stem = stem.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    return f"{stem}{f'-{number}' if number > 1 else ''}{dot}{kind}"


def task_page(
    mesh: Connection,
    view: TaskView,
    *,
    as_json: bool,
    raw: bool = False,
    scores: bool = False,
    more: Sequence[_Line] = (),
) -> str:
    """A task with its attempts and outcome, as it is printed; with the `scores` of all at each choice.

    Its answer is drawn if it is Markdown, unless `raw`.
    """
    fields = document(view)
    if as_json:
        return json.dumps(fields, ensure_ascii=False, indent=2)
    rows = [*_rows(fields, scores=scores), *more, *_waiting(view, mesh.options)]
    if view.attempts:
        rows.append(("steps", f"mesh task {view.task_id} --steps{mesh.options}"))
    rows.append(("events", f"mesh events --task {view.task_id}{mesh.options}"))
    if view.outcome is not None and not view.outcome.success:
        rows.append(("again", f"mesh retry {view.task_id}{mesh.options}"))
    text = view.outcome.answer if view.outcome else ""
    page = labelled(row for row in rows if row[1])
    return "\n".join([page, *(["", answer_text(for_terminal(text), raw=raw)] if text else [])])


async def task_bounds(mesh: Connection, view: TaskView) -> list[_Line]:
    """The limits of a task, each with whether it was reached, its last progress, and its own budget."""
    lines = list[_Line]()
    if view.limits:
        reached = [
            event.event_type
            for limit in view.limits
            for event in await mesh.client.events(task_id=view.task_id, event_type=limit["event"], limit=1)
        ]
        lines.append(("limits", ", ".join(_limit(limit, limit["event"] in reached) for limit in view.limits)))
    if view.attempts:
        sessions = await mesh.client.events(task_id=view.task_id, event_type="coding.session", limit=100)
        lines += [("sessions", line)] if (line := _coding_sessions(sessions)) else []
        lines += _last_progress(
            await mesh.client.events(task_id=view.task_id, event_type="run.progress", limit=100)
        )
    accounts = [document(account) for account in await mesh.client.budgets()]
    own = [one for one in accounts if one["budget"] == TASK_BUDGET and one["key"].endswith(view.task_id)]
    return [*lines, *(("budget", render_spent(account)) for account in own)]


def _last_progress(events: Sequence[Event]) -> list[_Line]:
    """The last progress of each of the last steps."""
    steps = dict[tuple[Any, Any], str]()
    for fields in (event.fields for event in events):
        place = fields["attempt"], fields["step"]
        steps.pop(place, None)  # the last step comes last
        steps[place] = f"step {fields['step']}: {short(fields['text'])}"
    return [("progress", line) for line in [*steps.values()][-_MAX_PROGRESS_LINES:]]


def _coding_sessions(events: Sequence[Event]) -> str:
    """The coding agent of a task, and how each of its sessions began."""
    if not events:
        return ""
    payloads = [event.payload for event in events]
    agent = payloads[-1]["agent"] or payloads[-1]["program"]
    return f"{agent}: {', '.join(payload['how'] for payload in payloads)}"


def _limit(limit: Mapping[str, Any], is_reached: bool) -> str:
    name, most = limit["limit"], limit["most"]
    number = f"{most:,}" if isinstance(most, int | float) else str(most)
    where = limit["setting"].removeprefix(f"limits.{name} of ").removeprefix(f"{name} in ")
    return f"{name} {number} ({where}){' reached' if is_reached else ''}"


def _rows(view: Document, *, scores: bool) -> Iterator[tuple[str, str]]:
    yield "task", view["task_id"]
    if view.get("title"):
        yield "title", view["title"]
    yield "status", join([view["status"], view.get("state")])
    yield "capability", view["capability"]
    yield "request", short(view["payload"].get("text") or "")
    yield "created", local_time(view["created_at"])
    if view["after"]:
        yield "after", f"task {view['after']}"
    if origin := view["forked_from"]:
        yield "forked", f"from step {origin['step']} of task {origin['task_id']}, attempt {origin['attempt']}"
    for number, attempt in enumerate(view["attempts"], start=1):
        others = attempt.get("others", ())
        among = f"of {len(others) + 1} agents" if others else ""
        parts = [attempt["agent_id"], score(attempt.get("score_card")), among, fault(attempt.get("error"))]
        yield f"attempt {number}", join(parts)
        for card in others if scores else ():
            yield "not chosen", join([card["agent_id"], score(card)])
    if view["code"]:
        yield "code", view["code"]
    if outcome := view["outcome"]:
        error = outcome.get("error")
        parts = [
            outcome["status"],
            display.seconds(outcome.get("duration_ms")),
            outcome.get("model"),
            display.tokens(outcome.get("usage")),
            dollars(outcome.get("cost_usd")),
            finish(outcome.get("finish_reason")),
            f"{limit} reached" if (limit := outcome.get("limit")) else "",
            f"{error.get('type', 'error')}: {error.get('message', '')}" if error else "",
        ]
        yield "outcome", join(parts)
        result = outcome.get("result") or {}
        for name, value in result.items() if isinstance(result.get("text"), str) else ():
            if name != "text":  # which is printed whole
                yield "result", short(f"{name}: {_text(value)}")
        yield "prompt", printable(outcome.get("prompt") or "")
        yield from file_rows(outcome.get("files") or ())


def _waiting(view: TaskView, options: str) -> Iterator[tuple[str, str]]:
    """The waits of a task; for a person the question, and the commands that answer it."""
    from meshwright.console.questions import question_lines
    from meshwright.engine.events.inbox import Question, question_id

    if view.missing_agent is not None:
        yield "waits for", f"its agent {view.missing_agent}, which is not loaded here"
    for wait in view.waits:
        if wait.kind != "person":
            yield "waits for", join([_waited_for(wait), wait.reason])
            continue
        question = Question(
            id=question_id(view.tenant_id, wait.wait_id),
            seq=0,
            wait_id=wait.wait_id,
            task_id=view.task_id,
            tenant_id=view.tenant_id,
            question=wait.reason,
            subject=wait.subject,
            answer_schema=wait.answer_schema,
            may_answer=wait.may_answer,
            since=wait.since or view.created_at,
            expires_at=wait.expires_at,
        )
        yield "waits for", "a person"
        yield from question_lines(document(question), options)


def _waited_for(wait: Wait) -> str:
    if wait.child_task_id is not None:
        return f"task {wait.child_task_id}"
    until = f" until {local_time(wait.due_at.isoformat())}" if wait.due_at is not None else ""
    return f"{wait.kind}{until}"
