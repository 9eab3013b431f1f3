"""Approvals of calls of tools: who is asked, about which arguments and effect, and what an answer covers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from meshwright.agents.run.question import summarize_request
from meshwright.agents.run.state import RunState, StandingApproval
from meshwright.agents.tools.approval import (
    MARKED,
    ApprovalCall,
    ChangedCall,
    Preview,
    RequestedArguments,
    arguments_text,
    may_need_approval,
    rule_for,
)
from meshwright.agents.tools.limited_work import plain_effect, within_limits
from meshwright.agents.tools.settings import ApprovalRule
from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.core.errors import InvalidInput, MemoryUnavailable, MeshError, ToolFailed, WaitExpired
from meshwright.core.redaction import redact, secret_of_mesh
from meshwright.engine.work.people import HIDDEN, Approval, Decision, hidden_words, marked, sealed_text

_APPROVED = "approved"  # the step that looks whether a tool was


class CallApproval:
    """The approval of one call of a tool, whatever its arguments; `outside` as the model was.

    `arguments` are those to run it with, which a person may change, and `changed_by` names that person. The
    `decision` is None for a call that needs none.
    """

    def __init__(
        self, state: RunState, name: str, tool: Tool | None, context: ToolContext, *, outside: bool
    ) -> None:
        self.decision: Decision | None = None
        self._state, self._masks = state, state.masks
        self._name, self._tool, self._context, self._outside = name, tool, context, outside
        self._versions: list[RequestedArguments] = []

    @property
    def arguments(self) -> str:
        """The arguments of the call as JSON text, once it is decided."""
        return self._versions[-1].arguments

    @property
    def changed_by(self) -> str:
        """The person who changed them, if any did."""
        return self._versions[-1].changed_by

    async def decide(self, arguments: str) -> None:
        """Decide on a call with these arguments, which a person may change.

        Changed arguments make another call of it. The decision that has them counts for that call where the
        same rule is for it, one approver is enough, and the tool has no preview; else the new call is asked
        about. If the tool refuses the arguments, the question is asked again, and says why.
        """
        name, request = self._name, {"arguments": arguments}
        begins = {f"{step} {name}": request for step in ("approve", "preview", "tool")}
        self._state.journal.join(f"tool {name}", request, {**begins, _APPROVED: {"tool": name}})
        versions = self._versions = [RequestedArguments(arguments)]
        decision: Decision | None = None
        refused = ""
        while True:
            decision = await self._decision(decision, refused)
            refused = ""
            if decision is not None and decision.error and len(versions) > 1:
                versions.pop()
                refused, decision = decision.error, None
            elif decision is None or decision.arguments is None:
                self.decision = decision
                return
            else:
                changed = RequestedArguments(arguments_text(decision.arguments), decision.decided_by)
                refused = await self._refusal(changed)
                decision = None if refused else self._carried(decision, versions[-1], changed)
                versions += [] if refused else [changed]

    async def _decision(self, decision: Decision | None, refused: str) -> Decision | None:
        """The decision on the last version of a call; one with arguments changes it. None if it needs none.

        Decisions in the journal come first, whatever rules and tools are now. A yes to other arguments than
        the call has now, as where a default has changed, is asked for again. Arguments that do not fit need
        no approval: the call itself says what is wrong with them. A person sees the preview of the tool's
        effect, if it has one.
        """
        name, arguments = self._name, self.arguments
        asks, previews = f"approve {name}", f"preview {name}"
        preview: Preview | None = None
        has_looked = bool(refused)
        while True:
            call, rule = self._rule_for(arguments)
            if call is not None and preview is not None:
                call = call.with_effect(preview.hash, preview)
            step = self._state.journal.upcoming()
            if step is None:
                step = self._step_for(call, rule, decision, preview, has_looked=has_looked)
            if step == previews:
                decision, preview = None, await self._preview(arguments)
                if preview.error:
                    return Decision(approve=False, error=preview.error)
            elif step == asks:
                decision = await self._ask(call, rule or ApprovalRule(), refused)
                if decision.arguments is not None:
                    return decision
                decision = decision.model_copy(update={"effect": preview.hash if preview else ""})
                if not self.changed_by:
                    self._remember(decision, call, rule)
            elif step == _APPROVED:
                has_looked = True
                decision = await self._standing(call, rule) or decision
            else:
                return decision

    def _remember(self, decision: Decision, call: ApprovalCall | None, rule: ApprovalRule | None) -> None:
        is_covered = call is not None and decision.covers(call.binds, self._now)  # no other target is set now
        if call is not None and rule is not None and is_covered:
            self._state.approvals.append(StandingApproval(self._name, rule, decision, self._outside))

    async def _refusal(self, changed: RequestedArguments) -> str:
        """Why a tool refuses the arguments of a person, or no text: a step, since tools may change."""

        async def look() -> str:
            if self._tool is None:
                return ""
            try:
                too_long = self._approval_call(self._tool, changed.arguments).is_too_long
            except InvalidInput as error:
                return self._why(error.message)
            return "they are too long to be shown to those who approve it" if too_long else ""

        request = {"arguments": changed.arguments}
        return await self._state.journal.step(f"change {self._name}", request, look, costly=False)

    def _carried(
        self, decision: Decision, former: RequestedArguments, changed: RequestedArguments
    ) -> Decision | None:
        """A decision with arguments as one on the changed call; None if that call needs its own."""
        call, rule = self._rule_for(former.arguments)
        new, its_rule = self._rule_for(changed.arguments)
        if call is None or rule is None or new is None or call.tool.has_preview:
            return None
        approvers = (*rule.approvers, *rule.then)
        may_decide = rule.count == 1 and (not rule.approvers or decision.decided_by in approvers)
        if rule != its_rule or not may_decide or not decision.covers(call.binds, self._now):
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
        if decision is not None and (not decision.approve or decision.covers(call.binds, self._now)):
            return None
        if rule.ask == "once" and not has_looked:
            return _APPROVED
        is_new = preview is None or decision is not None  # which was of another call, or at another time
        return f"{'preview' if call.tool.has_preview and is_new else 'approve'} {call.tool.name}"

    async def _preview(self, arguments: str) -> Preview:
        """The effect of a call now, as a step: what a person sees of it stands in the journal."""
        state, name, tool = self._state, self._name, self._tool

        async def ask() -> Preview:
            if tool is None:
                return Preview()
            try:
                with state.time.apart():
                    preview = Preview.parse(await self._effect(tool, arguments))
                return self._marked(preview)
            except (ToolFailed, InvalidInput, MemoryUnavailable) as error:
                if tool.origin == "outside":
                    state.journal.read_outside()
                return Preview(error=self._why(str(error)))

        return await state.journal.step(f"preview {name}", {"arguments": arguments}, ask, shape=Preview)

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
        return sealed_text(self._state.services.seal, whole) if whole else ""

    def _why(self, error: str) -> str:
        return self._masks.hide(error.removeprefix(f"{self._name} was not run: "))

    async def _effect(self, tool: Tool, arguments: str) -> Any:
        work = tool.preview(await self._masks.put_back(tool, arguments), self._context)
        seconds = self._state.services.tool_timeout_seconds
        try:
            return await within_limits(tool, work, self._context.task, plain_effect, seconds)
        except MeshError as error:
            self._masks.clean_error(error, tool)
            raise

    async def check(self, tool: Tool, arguments: str) -> None:
        """Raise ToolFailed where the call may not run so. Call it where the tool is executed."""
        decision, (call, rule) = self.decision, self._rule_for(arguments)
        if decision is not None and not decision.approve:
            decision.check(tool.name, decision.binds, self._now)
        elif call is not None and rule is not None:
            if decision is None:
                raise _not_approved(call)
            decision.check(tool.name, call.with_effect(decision.effect).binds, self._now)
        if decision is not None and decision.effect:
            effect = Preview.parse(await self._effect(tool, arguments))
            is_done = effect.is_none and tool.idempotent
            if effect.hash != decision.effect and not is_done:
                raise ToolFailed(
                    f"{tool.name} was not run: its effect is another than was approved",
                    remedy="Look at the state as it is now, and call it again for a new approval",
                )

    @property
    def _now(self) -> datetime:
        return self._state.services.clock.now()

    def _rule_for(self, arguments: str) -> tuple[ApprovalCall | None, ApprovalRule | None]:
        settings, tool, agent_id = self._state.services.approvals, self._tool, self._state.agent.agent_id
        tenant_id = self._state.task.tenant_id
        caller: Any = {"agent_id": agent_id, "tenant_id": tenant_id, "outside": self._outside}
        if tool is None or not may_need_approval(settings, tool, **caller):
            return None, None
        try:
            call = self._approval_call(tool, arguments)
        except InvalidInput:
            return None, None
        return call, rule_for(settings, call, **caller)

    def _approval_call(self, tool: Tool, arguments: str) -> ApprovalCall:
        return ApprovalCall.parse(tool, arguments, self._state.task.task_id)

    async def _standing(self, call: ApprovalCall | None, rule: ApprovalRule | None) -> Decision | None:
        """The earlier yes to the tool under the same rule, for this call too.

        None from before text from outside came.
        """
        name = self._name
        counts = not self._outside or self._state.services.approvals.after_outside == "allow"
        fitting = (
            standing.decision
            for standing in reversed(self._state.approvals)
            if standing.tool == name and standing.rule == rule and (counts or standing.outside)
        )
        decision = next(fitting, None)

        async def look() -> bool:
            return decision is not None

        was_approved = await self._state.journal.step(_APPROVED, {"tool": name}, look, costly=False)
        if not was_approved or decision is None:
            return None
        return decision.model_copy(update={"binds": call.binds if call else "", "effect": ""})

    async def _ask(self, call: ApprovalCall | None, rule: ApprovalRule, refused: str) -> Decision:
        state, outside = self._state, self._outside
        agent_id, arguments = state.agent.agent_id, self.arguments
        days = rule.expires_days or state.services.patience_days
        request = summarize_request(state.task)
        before, _ = self._rule_for(self._versions[0].arguments)
        change = ChangedCall.compare(call, before, self.changed_by, redact(refused))
        reason, subject, sealed = "", None, ()
        if call is not None:
            masks = await self._masks.meanings(call.tool, arguments)
            fields = call.subject(agent_id, rule, outside=outside, change=change, masks=masks)
            subject, whole = marked(fields, MARKED)
            sealed = tuple(part for part in (self._sealed(whole), call.preview.sealed) if part)
            notes = [hidden_words(subject), *(f"{mask} is {text}." for mask, text in masks.items())]
            reason = call.question(agent_id, request, outside=outside, change=change, notes=notes)
        try:
            answer = await state.journal.wait(
                f"approve {self._name}",
                {"arguments": arguments},
                kind="person",
                reason=reason,
                subject=subject or {},
                answer_schema=call.answer_schema if call else Approval.model_json_schema(),
                binds=call.binds if call else "",
                may_answer=rule.approvers,
                remind_seconds=rule.remind_seconds,
                then=rule.then,
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
