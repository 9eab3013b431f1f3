"""Waits of a run for the outside: answers and approvals of people, and events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from meshwright.core import topics
from meshwright.core.errors import AgentError, InvalidInput, ToolFailed, WaitExpired, sentence
from meshwright.core.redaction import redact, redact_data
from meshwright.models.structure import ShapeT
from meshwright.run.context import RunContext
from meshwright.run.prepared import summary_of
from meshwright.tools.approval import ApprovalCall, Decision, may_need_approval, rule_for
from meshwright.tools.settings import ApprovalRule
from meshwright.tools.tool import Tool
from meshwright.work.people import WAITED_FOR, Approval
from meshwright.work.protocol import Wait

_APPROVED = "approved"  # the step that looks whether a tool was
_TEXT = {"type": "string", "minLength": 1}
_MAX_QUESTION_CHARS = 10_000
_MAX_ABOUT_BYTES = 64 * 1024  # of what is shown with a question, which is a part of its thread's state


async def ask_person(
    attempt: RunContext,
    question: str,
    shape: type[ShapeT] | None,
    expires: timedelta | datetime | None,
    about: Mapping[str, Any] | None,
    may_answer: Sequence[str],
) -> str | ShapeT:
    """Ask until an answer fits; see `Run.ask_person`."""
    _check(question, shape)
    subject = {**redact_data(_plain(about)), "kind": "question", "agent_id": attempt.agent.agent_id}
    schema = _TEXT if shape is None else shape.model_json_schema()
    reason = redact(question)
    while True:
        answer = await attempt.journal.wait(
            "ask_person",
            {"question": question, "about": about, "again": reason},
            kind="person",
            reason=reason,
            subject=subject,
            answer_schema=schema,
            may_answer=tuple(may_answer),
            expires_at=_end_of(attempt, expires),
        )
        if shape is None:
            return str(answer)
        try:
            return shape.model_validate(answer)
        except ValidationError as error:  # of what a JSON schema cannot say
            problems = error.errors(include_url=False, include_input=False)
            errors = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'it'}: {sentence(one)}" for one in problems
            )
            reason = f"{redact(question)} (The last answer was not accepted: {errors}.)"


async def wait_event(
    attempt: RunContext, topic: str, match: Mapping[str, Any] | None, expires: timedelta | datetime | None
) -> dict[str, Any]:
    """Wait for an event; see `Run.wait_event`."""
    try:
        topics.matcher(topic)
    except (ValueError, AttributeError) as error:
        raise AgentError(f"{topic!r} is no topic: {error}", remedy="Write one like app.orders") from error
    wanted = _plain(match)
    if isinstance(event_type := wanted.get("event_type"), str):
        wanted["event_type"] = topics.type_on(topic, event_type)
    shown = "".join(f", {name} = {json.dumps(value)}" for name, value in redact_data(wanted).items())
    return await attempt.journal.wait(
        "wait_event",
        {"topic": topic, "match": wanted},
        kind="event",
        reason=f"waits for an event on {topic}{shown}",
        subject={"topic": topic, "match": wanted},
        expires_at=None if expires is None else _end_of(attempt, expires),
    )


def waits_for(wait: Wait) -> str:
    """Says as a clause for the conversation of a thread why a request is still open."""
    return f"waits for {WAITED_FOR[wait.kind]}{f': {wait.reason}' if wait.kind == 'person' else ''}"


class Approvals:
    """The approvals of one run. Decisions are in its journal: a run that is resumed has them again."""

    def __init__(self, attempt: RunContext) -> None:
        self._attempt = attempt
        self._given: dict[str, Decision] = {}

    async def decide(self, name: str, tool: Tool | None, arguments: str) -> Decision | None:
        """The decision on a call, once a person has made it; None if it needs none.

        Decisions in the journal come first, whatever rules and tools are now. A yes to other arguments than
        the call has now, as where a default has changed, is asked for again. Arguments that do not fit need
        no approval: the call itself says what is wrong with them.
        """
        asks, request = f"approve {name}", {"arguments": arguments}
        made = {asks: request, _APPROVED: {"tool": name}, f"tool {name}": request}
        decision: Decision | None = None
        has_looked = False
        while True:
            call, rule = self._rule_for(tool, arguments)
            step = self._attempt.journal.upcoming(made)
            if step is None:
                step = self._step_for(call, rule, decision, has_looked=has_looked)
            if step == asks:
                decision = await self._ask(name, arguments, call, rule or ApprovalRule())
            elif step == _APPROVED:
                has_looked = True
                if await self._was_given(name):
                    decision = self._given[name].model_copy(update={"binds": call.binds if call else ""})
            else:
                return decision
            if decision is not None and decision.approve:
                self._given[name] = decision

    def _step_for(
        self,
        call: ApprovalCall | None,
        rule: ApprovalRule | None,
        decision: Decision | None,
        *,
        has_looked: bool,
    ) -> str | None:
        """The step that a call needs next; None if it is decided, or nobody can decide on it."""
        if call is None or rule is None or call.is_too_long:
            return None
        if decision is not None and (not decision.approve or decision.covers(call, self._now)):
            return None
        return _APPROVED if rule.ask == "once" and not has_looked else f"approve {call.tool.name}"

    def check(self, tool: Tool, arguments: str, decision: Decision | None) -> None:
        """Raise ToolFailed where a call may not run. Call it where the tool is executed."""
        call, rule = self._rule_for(tool, arguments)
        if decision is not None and not decision.approve:
            decision.check(tool.name, decision.binds, self._now)
        elif call is not None and rule is not None:
            if decision is None:
                raise _not_approved(call)
            decision.check(tool.name, call.binds, self._now)

    @property
    def _now(self) -> datetime:
        return self._attempt.services.clock.now()

    def _rule_for(self, tool: Tool | None, arguments: str) -> tuple[ApprovalCall | None, ApprovalRule | None]:
        rules = self._attempt.services.approval_rules
        whose = {"agent_id": self._attempt.agent.agent_id, "tenant_id": self._attempt.task.tenant_id}
        if tool is None or not may_need_approval(rules, tool, **whose):
            return None, None
        try:
            call = ApprovalCall.of(tool, arguments)
        except InvalidInput:
            return None, None
        return call, rule_for(rules, call, **whose)

    async def _was_given(self, tool: str) -> bool:
        async def look() -> bool:
            return tool in self._given

        return await self._attempt.journal.step(_APPROVED, {"tool": tool}, look, costly=False)

    async def _ask(
        self, tool: str, arguments: str, call: ApprovalCall | None, rule: ApprovalRule
    ) -> Decision:
        attempt = self._attempt
        agent_id = attempt.agent.agent_id
        days = rule.expires_days or attempt.services.patience_days
        try:
            answer = await attempt.journal.wait(
                f"approve {tool}",
                {"arguments": arguments},
                kind="person",
                reason=call.question(agent_id, summary_of(attempt.task)) if call else "",
                subject=call.subject(agent_id, rule) if call else None,
                answer_schema=Approval.model_json_schema(),
                binds=call.binds if call else "",
                may_answer=rule.approvers,
                expires_at=self._now + timedelta(days=days),
            )
        except WaitExpired:
            return Decision(approve=False)
        return Decision.model_validate(answer)


def _not_approved(call: ApprovalCall) -> ToolFailed:
    name = call.tool.name
    if not call.is_too_long:
        return ToolFailed(f"{name} was not run: it needs an approval", remedy="Call it again")
    return ToolFailed(
        f"{name} was not run: its arguments are too long to be shown to those who approve it",
        remedy="Call it with shorter ones, or several times",
    )


def _check(question: object, shape: object) -> None:
    if not isinstance(question, str) or not 0 < len(question.strip()) <= _MAX_QUESTION_CHARS:
        raise AgentError(
            "run.ask_person needs a question as text",
            remedy=f"Ask in up to {_MAX_QUESTION_CHARS:,} characters; more goes into about={{...}}",
        )
    if shape is not None and not (isinstance(shape, type) and issubclass(shape, BaseModel)):
        raise AgentError(f"the shape {shape!r} is no pydantic model", remedy="Name a class, such as Approval")


def _plain(about: Mapping[str, Any] | None) -> Any:
    """Plain data of an open wait. Raises AgentError for what JSON cannot hold, or is too long."""
    try:
        data = to_json(dict(about or {}), inf_nan_mode="null")
    except (TypeError, ValueError) as error:
        raise AgentError(
            f"what is given with a wait is not what JSON can hold: {error}", remedy="Give it plain data"
        ) from error
    if len(data) > _MAX_ABOUT_BYTES:
        raise AgentError(
            f"what is given with a wait has {len(data):,} bytes, and may have {_MAX_ABOUT_BYTES:,}",
            remedy="Show what the person needs to decide",
        )
    return from_json(data)


def _end_of(attempt: RunContext, expires: timedelta | datetime | None) -> datetime:
    now = attempt.services.clock.now()
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise AgentError(f"expires={expires} has no time zone", remedy="Give it one, or a timedelta")
        return expires
    return now + (timedelta(days=attempt.services.patience_days) if expires is None else expires)
