"""Answers of people, checked where they come in: who may give one, and whether it fits the question."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import field
from pydantic_core import from_json

from meshwright.core.encoding import Struct
from meshwright.core.errors import Conflict, Forbidden, InvalidInput, MeshError, NotFound
from meshwright.core.messages import Caller
from meshwright.core.redaction import MARK, MASK, REDACTED
from meshwright.core.schema import described, fault_text, faults, takes_approval
from meshwright.engine.events.inbox import Question
from meshwright.engine.sql.encryption import Cipher
from meshwright.engine.work.people import (
    APPROVAL,
    MAX_SHOWN_CHARS,
    REQUESTER_MAY,
    WAITED_FOR,
    Decision,
    hidden_words,
    is_decision,
    is_doubt,
)
from meshwright.engine.work.protocol import APPROVED_BY, Wait

_HIDDEN = re.compile(rf"{re.escape(REDACTED)}|{MASK.pattern}|{MARK.pattern}|(?<=\")\*{{10}}(?=\")")
"""The text in place of a hidden one: ours, and that of pydantic's secrets."""
_APPROVE = frozenset({"approve", "approved", "yes", "ok", "okay"})
_DENY = frozenset({"deny", "denied", "no", "reject"})
_REMEDIES = {
    "money": "mesh budgets raise NAME USD, or POST /budgets/raise, adds some; mesh deny ID --reason says no"
}


def checked_answer(
    wait: Wait,
    value: Any,
    caller: Caller,
    agents: Sequence[str],
    now: datetime,
    requesters: Collection[str] = (),
) -> Any:
    """The answer as it is recorded; that to an approval says who gave it, when, and what it is bound to.

    `agents` are those that ask, which may not answer themselves, `requesters` those that may not approve.
    Raises Forbidden, Conflict for what has expired, and InvalidInput where the answer does not fit, or is not
    a person's to give.
    """
    if wait.kind != "person":
        raise InvalidInput(
            f"The task waits for {WAITED_FOR[wait.kind]} there, which no person answers",
            remedy=_REMEDIES.get(wait.kind, "GET /inbox, or mesh inbox, lists what waits for people"),
            field="key",
        )
    _check_caller(wait, caller, agents)
    if wait.expires_at is not None and wait.expires_at <= now:
        raise Conflict(f"That question has expired: {wait.reason}", field="key")
    check_fits(wait.answer_schema, value)
    if wait.subject.get("kind") != APPROVAL:
        return value
    if value["approve"]:
        _check_approver(wait, caller, requesters)
    value = _with_own_arguments(wait, value)
    before = () if "arguments" in value else wait.subject.get(APPROVED_BY, ())  # they did not see these
    decided_by = ", ".join([*before, caller.requested_by])
    decision = Decision(
        **value, decided_by=decided_by, decided_at=now, binds=wait.binds, expires_at=wait.expires_at
    )
    return decision.model_dump(mode="json")


def parse_reply(answer_schema: Mapping[str, Any] | None, text: str) -> Any:
    """The answer that a text is to a question: the text itself, or JSON where its schema is of other values.

    To an approval `approve` or `deny` is one too. None for text that is no JSON.
    """
    if answer_schema is None or answer_schema.get("type") == "string":
        return text
    if takes_approval(answer_schema) and (decision := parse_decision(text)) is not None:
        return decision
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return None


def parse_decision(text: str) -> dict[str, Any] | None:
    """The decision that begins a text, such as `yes` or `deny`, with its reason; None where none does."""
    word, _, reason = text.strip().partition(" ")
    word = word.strip(".,:;!").casefold()
    if word not in _APPROVE | _DENY:
        return None
    return {"approve": word in _APPROVE, "reason": reason.strip()}


def check_digest(digest: str, current: str | None) -> None:
    """Raises Conflict for an answer that names the digest of another question than the current one.

    An answer without a digest, and a question from before they had one, pass.
    """
    if digest and current and digest != current:
        raise Conflict(
            "The question is another than the one that was shown",
            remedy="Read it again: GET /inbox, or mesh inbox ID; then answer it with its own digest",
            field="digest",
        )


def check_claim(question: Question | None, caller: Caller, now: datetime, *, anyway: bool = False) -> None:
    """Raises Conflict for a question that another caller is looking at, unless it is answered `anyway`."""
    question = question and question.at(now)
    if question is None or question.status != "open" or question.claimed_until is None or anyway:
        return
    if question.claimed_by != caller.requested_by:
        raise Conflict(
            f"{question.claimed_by} is looking at that question "
            f"until {question.claimed_until:%Y-%m-%d %H:%M:%S} UTC",
            remedy='Leave it to them, or answer it with "anyway": true (mesh: --anyway)',
            field="anyway",
        )


class RevealedQuestion(Struct):
    """The hidden parts of a question as they are: its text, and fields of its subject; none where none is."""

    question: str | None = None
    subject: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def decrypt(cls, wait: Wait, cipher: Cipher) -> RevealedQuestion:
        """Decrypt them. Raises ConfigError where no key fits."""
        parts = [cls.model_validate(json.loads(cipher.decrypt(part))) for part in wait.sealed]
        questions = (part.question for part in parts if part.question is not None)
        subject = {name: field for part in parts for name, field in part.subject.items()}
        return cls(question=next(questions, None), subject=subject)


def check_reader(wait: Wait, caller: Caller, agents: Sequence[str], requesters: Collection[str]) -> None:
    """Raises Forbidden for a caller who may not answer a question, and so not read the hidden parts of it.

    That of an approval is a caller who may not approve: `requesters` may not.
    """
    _check_caller(wait, caller, agents)
    if wait.subject.get("kind") == APPROVAL:
        _check_requester(wait, caller, requesters)


def check_alone(question: Question, value: Any) -> None:
    """Raises Conflict for a question that one answer for many may not decide.

    Those are about steps that a crash left in doubt, and about calls with hidden parts.
    """
    remedy = "Answer it by itself: POST /tasks/{task_id}/answer, or mesh approve ID"
    if is_doubt(question.wait_id):
        raise Conflict("It asks whether a step may be repeated, which is checked for each", remedy=remedy)
    if (hidden := hidden_words(question.subject)) and isinstance(value, dict) and value.get("approve"):
        raise Conflict(f"Not all of it is shown. {hidden}".removesuffix("."), remedy=remedy)


def _with_own_arguments(wait: Wait, value: dict[str, Any]) -> dict[str, Any]:
    """The answer to an approval, without arguments that are those of the call.

    Raises InvalidInput for arguments that a denial has, that are too long to be shown, or that hold what
    stands for a hidden text: who cannot see a text may not send it elsewhere.
    """
    if "arguments" not in value:
        return value
    if not value["approve"]:
        raise InvalidInput(
            "A denial takes no arguments",
            remedy='Approve with them: {"approve": true, "arguments": {...}}',
            field="value.arguments",
        )
    text, stored_text = (
        json.dumps(data, ensure_ascii=False, sort_keys=True)
        for data in (value["arguments"], wait.subject.get("arguments"))
    )
    if text == stored_text:
        return {name: field for name, field in value.items() if name != "arguments"}
    if hidden := _HIDDEN.search(text):
        raise InvalidInput(
            f"The arguments hold {hidden[0]}, which stands for a text that is hidden from you",
            remedy="Write that text whole, or approve the call as it is, or deny it",
            field="value.arguments",
        )
    if len(text) > MAX_SHOWN_CHARS:
        raise InvalidInput(
            f"The arguments have {len(text):,} characters, and may have {MAX_SHOWN_CHARS:,}",
            remedy="Write shorter ones, or deny the call",
            field="value.arguments",
        )
    return value


def check_fits(schema: Mapping[str, Any] | None, value: Any) -> None:
    """Raises InvalidInput for an answer that does not fit the schema of its question."""
    if problems := faults(schema, value):
        raise InvalidInput(
            f"The answer does not fit: {fault_text(problems, 'the answer')}",
            remedy=f"Answer with {described(schema)}",
            field=f"value.{problems[0].path}" if problems[0].path else "value",
        )


def denied_money(wait: Wait, value: Any, caller: Caller, agents: Sequence[str]) -> str | None:
    """The reason of a person who denies a task the money that it asks for; None for any other answer.

    Raises Forbidden for the agents that ask.
    """
    if wait.kind != "money" or wait.subject.get("on_empty") != "ask" or not isinstance(value, dict):
        return None
    reason = value.get("reason")
    if value.get("approve") is not False or not isinstance(reason, str) or not reason.strip():
        return None
    _check_caller(wait, caller, agents)
    return reason


def decided(wait: Wait, value: Any) -> str:
    """The action of an answer, as the audit trail calls it."""
    if not is_decision(wait):
        return "task.answered"
    return "task.approved" if value.get("approve") else "task.denied"


def not_waiting(task_id: str, key: str, question: Question | None) -> MeshError:
    """The error for an answer to what a task does not wait for, or not any more."""
    remedy = "GET /inbox, or mesh inbox, lists what waits for people"
    if question is None or question.status == "open":
        return NotFound(f"Task {task_id} does not wait for {key!r}", remedy=remedy, field="key")
    by = f" by {question.answered_by}" if question.answered_by else ""
    at = f" at {question.ended_at:%Y-%m-%d %H:%M:%S} UTC" if question.ended_at else ""
    what = {
        "answered": f"That was answered{by}{at}",
        "expired": f"That question expired{at} without an answer",
        "closed": "The task does not wait for that any more",
    }
    return Conflict(f"{what[question.status]}: {question.question}", remedy=remedy, field="key")


def _check_caller(wait: Wait, caller: Caller, agents: Sequence[str]) -> None:
    if caller.requested_by in agents:
        raise Forbidden(
            f"{caller.requested_by} may not answer a question of its own task",
            remedy="Answer it as another caller",
            field="key",
        )
    if wait.may_answer and caller.requested_by not in wait.may_answer:
        raise Forbidden(
            f"{caller.requested_by} may not answer this; {', '.join(wait.may_answer)} may",
            remedy="Answer with the key, or as the MQTT client, of one of them",
            field="key",
        )


def _check_requester(wait: Wait, caller: Caller, requesters: Collection[str]) -> None:
    if caller.requested_by in requesters and not wait.subject.get(REQUESTER_MAY):
        raise Forbidden(
            f"{caller.requested_by} requested this task, and may not approve its calls",
            remedy="Have another approver decide; a rule of [approvals] with not_requester = false allows it",
            field="key",
        )


def _check_approver(wait: Wait, caller: Caller, requesters: Collection[str]) -> None:
    _check_requester(wait, caller, requesters)
    if caller.requested_by in wait.subject.get(APPROVED_BY, ()):
        raise Conflict(
            f"{caller.requested_by} has approved this, and it takes another",
            remedy="Have another approver decide",
            field="key",
        )
