"""Questions as text: their subjects, and the commands that answer them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshwright.core.display import Document, local_time
from meshwright.core.money import TASK_BUDGET
from meshwright.core.schema import described, faults, takes_approval

_ID_CHARS = 6
_APPROVED = ("arguments", "effect", "difference", "request", "changed_from", "check")  # it is shown whole
_OF_MESH = ("kind", "agent_id", "tool", "hidden_parts")
_OF_DOUBT = ("began_at", "step_id")
_LONG_CHARS = 400


def parse_answer(schema: Mapping[str, Any] | None, text: str) -> Any:
    """The answer that a text stands for: JSON, if the question takes no text and that is JSON."""
    if schema is None or not faults(schema, text):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # the mesh says what it wants instead


def is_for_money(subject: Mapping[str, Any]) -> bool:
    """Whether a subject is of a task that waits for money; data of an agent's own question is none."""
    return "account" in subject and subject.get("kind") != "question"


def short_name(question_id: str) -> str:
    """The end of an id, by which people name a question."""
    return question_id[-_ID_CHARS:]


def question_lines(question: Document, options: str) -> Iterator[tuple[str, str]]:
    """The subject of a question and how to answer it, each with its label."""
    yield "asked", question["question"].partition("\nIts effect:\n")[0]  # which comes below, whole
    subject = question.get("subject") or {}
    is_said = is_for_money(subject)  # by the question itself
    fields = {name: value for name, value in subject.items() if name not in _OF_MESH and not is_said}
    if fields.get("check") and fields["check"] in question["question"]:  # all of what a check saw is there
        del fields["check"]
    if subject.get("kind") == "question":  # the names are not ours: below a label they cannot pass for one
        yield from _field_lines("about", fields)
    else:
        for name, value in _with_arguments(fields).items():
            if name not in _OF_DOUBT:
                yield from _field(name, value)
        yield from _interruption(question, fields)
    if may_answer := question.get("may_answer"):
        yield "for", ", ".join(may_answer)
    if question.get("expires_at"):
        yield "expires", local_time(question["expires_at"])
    if question["status"] == "open":
        yield from _ways(question, options)


def _interruption(question: Document, subject: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """When a step began that was interrupted, and the key by which its service may know it."""
    if began := subject.get("began_at"):
        yield "began", local_time(began)
        yield "stopped", f"the mesh did, after that and before {local_time(question.get('since'))}"
    if key := subject.get("step_id"):
        yield "its key", f"{key} (for idempotency, if its service was sent one)"


def _with_arguments(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a subject; the request of an interrupted tool call, which is JSON, as its arguments."""
    request = fields.get("request")
    if not isinstance(request, dict) or set(request) != {"arguments"}:
        return fields
    return {("arguments" if name == "request" else name): value for name, value in fields.items()} | request


def _field(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if value in (None, "", {}, []):
        return
    if name in _APPROVED:
        yield from _whole(name, value)
    elif len(text := plain_text(value)) <= _LONG_CHARS:
        yield name, text
    else:
        yield name, f"{text[:_LONG_CHARS]}... ({len(text):,} characters; --json shows all)"


def _whole(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A value that a person approves: texts of several lines, such as diffs, as they are."""
    fields = value.items() if isinstance(value, dict) else [("", value)]
    if not any("\n" in field for _, field in fields if isinstance(field, str)):
        yield name, plain_text(value)
    else:
        yield from _field_lines(name, dict(fields))


def _field_lines(name: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each field on a line of its own, or on several below it, with the label before the first."""
    for key, field in fields.items():
        first, *rest = plain_text(field).split("\n")
        title = f"{key}: " if key else ""
        inner = "  " if title else ""  # no line of a text may pass for another field
        lines = [f"{title}|", *(f"{inner}{line}" for line in (first, *rest))] if rest else [f"{title}{first}"]
        for line in lines:
            yield name, line or " "
            name = ""


def plain_text(value: Any) -> str:
    """Returns a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _ways(question: Document, options: str) -> Sequence[tuple[str, str]]:
    name = short_name(question["id"])
    if not (question["task_id"] or question.get("source")):
        return [("test", f"mesh models test{options}")]
    if is_for_money(subject := question.get("subject") or {}):
        ways = [("raise", f"mesh budgets raise {_budget_words(subject)} USD{options}")]
        ways += (
            [("cheaper", f"mesh budgets raise {_budget_words(subject)} --cheaper{options}")]
            if subject.get("cheaper")
            else []
        )
        return [*ways, ("deny", f'mesh deny {name} --reason "..."{options}')]
    if takes_approval(question.get("answer_schema")):
        ways = [("approve", f"mesh approve {name}{options}")]
        arguments = (question.get("subject") or {}).get("arguments")
        if arguments is not None and "arguments" in question["answer_schema"]["properties"]:
            text = json.dumps(arguments, ensure_ascii=False)
            quoted = shlex.quote(text if len(text) <= _LONG_CHARS else "{...}")
            ways.append(("change", f"mesh approve {name} --arguments {quoted}{options}"))
        is_doubt = (question.get("subject") or {}).get("kind") != "question"
        if is_doubt and "result" in question["answer_schema"].get("properties", {}):
            answer = shlex.quote('{"approve": false, "result": "..."}')
            ways.append(("it did", f"mesh answer {name} --value {answer}{options}"))
        return [*ways, ("deny", f'mesh deny {name} --reason "..."{options}')]
    return [("answer", answer_command(question, options))]


def _budget_words(subject: Mapping[str, Any]) -> str:
    """How `mesh budgets raise` names the budget that a task waits for."""
    budget, owner = str(subject.get("budget", "")), str(subject.get("of") or "")
    if budget == TASK_BUDGET:
        return owner
    return budget if owner in ("", "mesh") else f"{budget} --of {shlex.quote(owner)}"


def answer_command(question: Document, options: str) -> str:
    """The command that answers a question; where it asks for data, with the form of the answer."""
    schema = question.get("answer_schema")
    text = '"..."' if schema is None or not faults(schema, "...") else shlex.quote(described(schema))
    return f"mesh answer {short_name(question['id'])} {text}{options}"
