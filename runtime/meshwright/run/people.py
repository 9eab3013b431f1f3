"""Waits of a run for the outside: answers and approvals of people, and events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from meshwright.core import topics
from meshwright.core.errors import (
    AgentError,
    InvalidInput,
    MemoryUnavailable,
    ToolFailed,
    WaitExpired,
    sentence,
)
from meshwright.core.redaction import redact, redact_data
from meshwright.models.structure import ShapeT
from meshwright.run.context import RunContext
from meshwright.run.masks import Masks
from meshwright.run.prepared import summary_of
from meshwright.tools.approval import ApprovalCall, Decision, Preview, may_need_approval, rule_for
from meshwright.tools.settings import ApprovalRule
from meshwright.tools.tool import Tool, ToolContext
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
    *,
    expires: timedelta | datetime | None = None,
    about: Mapping[str, Any] | None = None,
    may_answer: Sequence[str] = (),
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

    def __init__(self, attempt: RunContext, masks: Masks) -> None:
        self._attempt = attempt
        self._masks = masks
        self._given: dict[str, Decision] = {}
        self._given_outside: set[str] = set()
        """The tools that were approved since the run has read text from outside."""

    async def decide(
        self, name: str, tool: Tool | None, arguments: str, context: ToolContext, *, outside: bool
    ) -> Decision | None:
        """The decision on a call, once a person has made it; None if it needs none.

        Decisions in the journal come first, whatever rules and tools are now. A yes to other arguments than
        the call has now, as where a default has changed, is asked for again. Arguments that do not fit need
        no approval: the call itself says what is wrong with them. A person sees the preview of the tool's
        effect, if it has one. `outside` says that the model had read text from outside when it asked for the
        call.
        """
        asks, previews, request = f"approve {name}", f"preview {name}", {"arguments": arguments}
        made = {asks: request, previews: request, _APPROVED: {"tool": name}, f"tool {name}": request}
        decision: Decision | None = None
        preview: Preview | None = None
        has_looked = False
        while True:
            call, rule = self._rule_for(tool, arguments, outside)
            if call is not None and preview is not None:
                call = call.with_effect(preview.hash, preview.effect)
            step = self._attempt.journal.upcoming(made)
            if step is None:
                step = self._step_for(call, rule, decision, preview, has_looked=has_looked)
            if step == previews:
                decision, preview = None, await self._preview(name, tool, arguments, context)
                if preview.error:
                    return Decision(approve=False, error=preview.error)
            elif step == asks:
                decision = await self._ask(name, arguments, call, rule or ApprovalRule(), outside)
                decision = decision.model_copy(update={"effect": preview.hash if preview else ""})
                if call is not None and decision.covers(
                    call, self._now
                ):  # not where another target is set now
                    self._given[name] = decision
                    self._given_outside |= {name} if outside else set()
            elif step == _APPROVED:
                has_looked = True
                was_given = await self._was_given(name, outside=outside)
                if was_given and (given := self._given.get(name)) is not None:
                    known = {"binds": call.binds if call else "", "effect": ""}
                    decision = given.model_copy(update=known)
            else:
                return decision

    def _step_for(
        self,
        call: ApprovalCall | None,
        rule: ApprovalRule | None,
        decision: Decision | None,
        preview: Preview | None,
        *,
        has_looked: bool,
    ) -> str | None:
        """The step that a call needs next; None if it is decided, or nobody can decide on it."""
        if call is None or rule is None or call.is_too_long:
            return None
        if decision is not None and (not decision.approve or decision.covers(call, self._now)):
            return None
        if rule.ask == "once" and not has_looked:
            return _APPROVED
        is_new = preview is None or decision is not None  # which was of another call, or at another time
        return f"{'preview' if call.tool.has_preview and is_new else 'approve'} {call.tool.name}"

    async def _preview(self, name: str, tool: Tool | None, arguments: str, context: ToolContext) -> Preview:
        """The effect of a call now, as a step: what a person sees of it stands in the journal."""
        attempt = self._attempt

        async def ask() -> Preview:
            if tool is None:
                return Preview()
            try:
                with attempt.time.apart():
                    preview = Preview.of(await self._effect(tool, arguments, context))
                return preview.model_copy(update={"effect": self._masks.hide(preview.effect)})
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                if tool.origin == "outside":
                    attempt.journal.read_outside()
                why = str(error).removeprefix(f"{name} was not run: ")
                return Preview(error=self._masks.hide(why))

        return await attempt.journal.step(f"preview {name}", {"arguments": arguments}, ask, shape=Preview)

    async def _effect(self, tool: Tool, arguments: str, context: ToolContext) -> Any:
        return await tool.preview(await self._masks.put_back(tool, arguments), context)

    async def check(
        self, tool: Tool, arguments: str, decision: Decision | None, context: ToolContext, *, outside: bool
    ) -> None:
        """Raise ToolFailed where a call may not run. Call it where the tool is executed."""
        call, rule = self._rule_for(tool, arguments, outside)
        if decision is not None and not decision.approve:
            decision.check(tool.name, decision.binds, self._now)
        elif call is not None and rule is not None:
            if decision is None:
                raise _not_approved(call)
            decision.check(tool.name, call.with_effect(decision.effect).binds, self._now)
        if decision is not None and decision.effect:
            effect = Preview.of(await self._effect(tool, arguments, context))
            is_done = effect.is_none and tool.idempotent
            if effect.hash != decision.effect and not is_done:
                raise ToolFailed(
                    f"{tool.name} was not run: its effect is another than was approved",
                    remedy="Look at the state as it is now, and call it again for a new approval",
                )

    @property
    def _now(self) -> datetime:
        return self._attempt.services.clock.now()

    def _rule_for(
        self, tool: Tool | None, arguments: str, outside: bool
    ) -> tuple[ApprovalCall | None, ApprovalRule | None]:
        settings, agent_id = self._attempt.services.approvals, self._attempt.agent.agent_id
        tenant_id = self._attempt.task.tenant_id
        known: Any = {"agent_id": agent_id, "tenant_id": tenant_id, "outside": outside}
        if tool is None or not may_need_approval(settings, tool, **known):
            return None, None
        try:
            call = ApprovalCall.of(tool, arguments)
        except InvalidInput:
            return None, None
        return call, rule_for(settings, call, **known)

    async def _was_given(self, tool: str, *, outside: bool) -> bool:
        """Whether the tool was approved before; what was approved before text from outside came, was not."""
        counts = not outside or self._attempt.services.approvals.after_outside == "allow"

        async def look() -> bool:
            return tool in (self._given if counts else self._given_outside)

        return await self._attempt.journal.step(_APPROVED, {"tool": tool}, look, costly=False)

    async def _ask(
        self, tool: str, arguments: str, call: ApprovalCall | None, rule: ApprovalRule, outside: bool
    ) -> Decision:
        attempt = self._attempt
        agent_id = attempt.agent.agent_id
        days = rule.expires_days or attempt.services.patience_days
        try:
            answer = await attempt.journal.wait(
                f"approve {tool}",
                {"arguments": arguments},
                kind="person",
                reason=call.question(agent_id, summary_of(attempt.task), outside=outside) if call else "",
                subject=call.subject(agent_id, rule, outside=outside) if call else None,
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
