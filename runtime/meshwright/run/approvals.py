"""Approvals of calls of tools: who is asked, about which arguments and effect, and what an answer covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from meshwright.core.errors import InvalidInput, MemoryUnavailable, ToolFailed, WaitExpired
from meshwright.core.redaction import redact, secret_of_mesh
from meshwright.run.context import RunContext
from meshwright.run.masks import Masks
from meshwright.run.prepared import summary_of
from meshwright.tools.approval import (
    MARKED,
    ApprovalCall,
    Asked,
    Change,
    Decision,
    Preview,
    arguments_text,
    may_need_approval,
    rule_for,
)
from meshwright.tools.settings import ApprovalRule
from meshwright.tools.tool import Tool, ToolContext
from meshwright.work.people import HIDDEN, Approval, hidden_words, marked, sealed_text

_APPROVED = "approved"  # the step that looks whether a tool was


class _Wanted(NamedTuple):
    """A call of a tool that a run wants to make, whatever its arguments."""

    name: str
    tool: Tool | None
    context: ToolContext
    outside: bool


class _Given(NamedTuple):
    """A yes to a call of a tool under a rule, and whether its run had read text from outside."""

    tool: str
    rule: ApprovalRule
    decision: Decision
    outside: bool


class Approvals:
    """The approvals of one run. Decisions are in its journal: a run that is resumed has them again."""

    def __init__(self, attempt: RunContext, masks: Masks) -> None:
        self._attempt = attempt
        self._masks = masks
        self._given: list[_Given] = []

    async def decide(
        self, name: str, tool: Tool | None, arguments: str, context: ToolContext, *, outside: bool
    ) -> tuple[Asked, Decision | None]:
        """The arguments of a call, which a person may change, and the decision on it; None if it needs none.

        `outside` says that the model had read text from outside when it asked for the call. Changed arguments
        make another call of it. The decision that has them counts for that call where the same rule is for
        it, one approver is enough, and the tool has no preview; else the new call is asked about. If the tool
        refuses the arguments, the question is asked again, and says why.
        """
        request = {"arguments": arguments}
        begins = {f"{step} {name}": request for step in ("approve", "preview", "tool")}
        self._attempt.journal.join(f"tool {name}", request, {**begins, _APPROVED: {"tool": name}})
        wanted, versions = _Wanted(name, tool, context, outside), [Asked(arguments)]
        decision: Decision | None = None
        refused = ""
        while True:
            decision = await self._decision(wanted, versions, decision, refused)
            refused = ""
            if decision is not None and decision.error and len(versions) > 1:
                versions.pop()
                refused, decision = decision.error, None
            elif decision is None or decision.arguments is None:
                return versions[-1], decision
            else:
                changed = Asked(arguments_text(decision.arguments), decision.decided_by)
                refused = await self._refusal(wanted, changed)
                decision = None if refused else self._carried(wanted, decision, versions[-1], changed)
                versions += [] if refused else [changed]

    async def _decision(
        self, wanted: _Wanted, versions: Sequence[Asked], decision: Decision | None, refused: str
    ) -> Decision | None:
        """The decision on the last version of a call; one with arguments changes it. None if it needs none.

        Decisions in the journal come first, whatever rules and tools are now. A yes to other arguments than
        the call has now, as where a default has changed, is asked for again. Arguments that do not fit need
        no approval: the call itself says what is wrong with them. A person sees the preview of the tool's
        effect, if it has one.
        """
        name, tool, _, outside = wanted
        arguments = versions[-1].arguments
        asks, previews = f"approve {name}", f"preview {name}"
        preview: Preview | None = None
        has_looked = bool(refused)
        while True:
            call, rule = self._rule_for(tool, arguments, outside)
            if call is not None and preview is not None:
                call = call.with_effect(preview.hash, preview)
            step = self._attempt.journal.upcoming()
            if step is None:
                step = self._step_for(call, rule, decision, preview, has_looked=has_looked)
            if step == previews:
                decision, preview = None, await self._preview(wanted, arguments)
                if preview.error:
                    return Decision(approve=False, error=preview.error)
            elif step == asks:
                decision = await self._ask(wanted, versions, call, rule or ApprovalRule(), refused)
                if decision.arguments is not None:
                    return decision
                decision = decision.model_copy(update={"effect": preview.hash if preview else ""})
                if not versions[-1].changed_by:
                    self._remember(decision, call, rule, outside)
            elif step == _APPROVED:
                has_looked = True
                decision = await self._given_before(wanted, call, rule) or decision
            else:
                return decision

    def _remember(
        self, decision: Decision, call: ApprovalCall | None, rule: ApprovalRule | None, outside: bool
    ) -> None:
        is_covered = call is not None and decision.covers(call, self._now)  # no other target is set now
        if call is not None and rule is not None and is_covered:
            self._given.append(_Given(call.tool.name, rule, decision, outside))

    async def _refusal(self, wanted: _Wanted, changed: Asked) -> str:
        """Why a tool refuses the arguments of a person, or no text: a step, since tools may change."""

        async def look() -> str:
            if wanted.tool is None:
                return ""
            try:
                too_long = self._call_of(wanted.tool, changed.arguments).is_too_long
            except InvalidInput as error:
                return self._why(wanted.name, error.message)
            return "they are too long to be shown to those who approve it" if too_long else ""

        request = {"arguments": changed.arguments}
        return await self._attempt.journal.step(f"change {wanted.name}", request, look, costly=False)

    def _carried(self, wanted: _Wanted, decision: Decision, asked: Asked, changed: Asked) -> Decision | None:
        """A decision with arguments as one on the changed call; None if that call needs its own."""
        call, rule = self._rule_for(wanted.tool, asked.arguments, wanted.outside)
        new, its_rule = self._rule_for(wanted.tool, changed.arguments, wanted.outside)
        if call is None or rule is None or new is None or call.tool.has_preview:
            return None
        may_decide = rule.count == 1 and (not rule.approvers or decision.decided_by in rule.approvers)
        if rule != its_rule or not may_decide or not decision.covers(call, self._now):
            return None
        return decision.model_copy(update={"arguments": None, "binds": new.binds})

    def _step_for(
        self,
        call: ApprovalCall | None,
        rule: ApprovalRule | None,
        decision: Decision | None,
        preview: Preview | None,
        *,
        has_looked: bool,
    ) -> str | None:
        """The step that a call needs next; None if it is decided, or cannot be."""
        if call is None or rule is None or call.is_too_long:
            return None
        if decision is not None and (not decision.approve or decision.covers(call, self._now)):
            return None
        if rule.ask == "once" and not has_looked:
            return _APPROVED
        is_new = preview is None or decision is not None  # which was of another call, or at another time
        return f"{'preview' if call.tool.has_preview and is_new else 'approve'} {call.tool.name}"

    async def _preview(self, wanted: _Wanted, arguments: str) -> Preview:
        """The effect of a call now, as a step: what a person sees of it stands in the journal."""
        attempt, (name, tool, context, _) = self._attempt, wanted

        async def ask() -> Preview:
            if tool is None:
                return Preview()
            try:
                with attempt.time.apart():
                    preview = Preview.of(await self._effect(tool, arguments, context))
                return self._marked(preview)
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                if tool.origin == "outside":
                    attempt.journal.read_outside()
                return Preview(error=self._why(name, str(error)))

        return await attempt.journal.step(f"preview {name}", {"arguments": arguments}, ask, shape=Preview)

    def _marked(self, preview: Preview) -> Preview:
        """The preview for the journal: secrets of the mesh are hidden for good, others have marks."""
        effect = self._masks.hide(preview.effect, secret_of_mesh)
        subject, whole = marked({"effect": effect}, ["effect"])
        update = {
            "effect": subject["effect"],
            "hidden": subject.get(HIDDEN, {}),
            "sealed": self._sealed(whole),
        }
        return preview.model_copy(update=update)

    def _sealed(self, whole: Mapping[str, Any]) -> str:
        return sealed_text(self._attempt.services.seal, whole) if whole else ""

    def _why(self, name: str, error: str) -> str:
        return self._masks.hide(error.removeprefix(f"{name} was not run: "))

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
            call = self._call_of(tool, arguments)
        except InvalidInput:
            return None, None
        return call, rule_for(settings, call, **known)

    def _call_of(self, tool: Tool, arguments: str) -> ApprovalCall:
        return ApprovalCall.of(tool, arguments, self._attempt.task.task_id)

    async def _given_before(
        self, wanted: _Wanted, call: ApprovalCall | None, rule: ApprovalRule | None
    ) -> Decision | None:
        """The earlier yes to the tool under the same rule, for this call too.

        None from before text from outside came.
        """
        name = wanted.name
        counts = not wanted.outside or self._attempt.services.approvals.after_outside == "allow"
        fitting = (
            given.decision
            for given in reversed(self._given)
            if given.tool == name and given.rule == rule and (counts or given.outside)
        )
        found = next(fitting, None)

        async def look() -> bool:
            return found is not None

        was_given = await self._attempt.journal.step(_APPROVED, {"tool": name}, look, costly=False)
        if not was_given or found is None:
            return None
        return found.model_copy(update={"binds": call.binds if call else "", "effect": ""})

    async def _ask(
        self,
        wanted: _Wanted,
        versions: Sequence[Asked],
        call: ApprovalCall | None,
        rule: ApprovalRule,
        refused: str,
    ) -> Decision:
        attempt, outside = self._attempt, wanted.outside
        agent_id, asked = attempt.agent.agent_id, versions[-1]
        days = rule.expires_days or attempt.services.patience_days
        request = summary_of(attempt.task)
        before, _ = self._rule_for(wanted.tool, versions[0].arguments, outside)
        change = Change.of(call, before, asked.changed_by, redact(refused))
        reason, subject, sealed = "", None, ()
        if call is not None:
            masks = await self._masks.meanings(call.tool, asked.arguments)
            fields = call.subject(agent_id, rule, outside=outside, change=change, masks=masks)
            subject, whole = marked(fields, MARKED)
            sealed = tuple(part for part in (self._sealed(whole), call.preview.sealed) if part)
            notes = [hidden_words(subject), *(f"{mask} is {text}." for mask, text in masks.items())]
            reason = call.question(agent_id, request, outside=outside, change=change, notes=notes)
        try:
            answer = await attempt.journal.wait(
                f"approve {wanted.name}",
                {"arguments": asked.arguments},
                kind="person",
                reason=reason,
                subject=subject,
                answer_schema=call.answer_schema if call else Approval.model_json_schema(),
                binds=call.binds if call else "",
                may_answer=rule.approvers,
                sealed=sealed,
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
