"""Approvals: which calls of tools wait for a person, and what a decision is bound to.

A decision holds for one tool with one set of arguments: it names the hash of the validated arguments with
their defaults, which is compared where the tool is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.encoding import Struct
from meshwright.core.errors import ToolFailed
from meshwright.core.redaction import redact, redact_data
from meshwright.models.structure import repaired
from meshwright.tools.settings import ApprovalRule
from meshwright.tools.tool import Tool
from meshwright.work.people import APPROVAL, NEEDED, REQUESTER_MAY

_MAX_REQUEST_CHARS = 200
_MAX_ARGUMENTS_CHARS = 2_000  # in the question itself, which chats show
_MAX_SHOWN_CHARS = 64_000  # with it, whole: an open question is a part of its thread's state


class Decision(Struct):
    """An answer as it is recorded: who gave it, when, what it is bound to, and until when it may be used."""

    approve: bool
    reason: str = ""
    decided_by: str = ""
    decided_at: datetime | None = None
    binds: str = ""
    expires_at: datetime | None = None

    def covers(self, call: ApprovalCall, now: datetime) -> bool:
        """Whether it is a yes to this very call."""
        is_in_time = self.expires_at is None or now <= self.expires_at
        return self.approve and self.binds == call.binds and is_in_time

    def check(self, tool: str, binds: str, now: datetime) -> None:
        """Raise ToolFailed if the call may not run, with the message for its model."""
        if not self.approve:
            who = f"{self.decided_by} denied it" if self.decided_by else "it was not approved in time"
            raise ToolFailed(f"{tool} was not run: {who}{f': {self.reason}' if self.reason else ''}")
        if self.binds != binds:
            raise ToolFailed(f"{tool} was not run: {self.decided_by} approved it with other arguments")
        if self.expires_at is not None and now > self.expires_at:
            raise ToolFailed(f"{tool} was not run: its approval has expired", remedy="Call it again")


@dataclass(frozen=True, slots=True)
class ApprovalCall:
    """A call of a tool that may need an approval: its validated arguments, and the hash that binds them.

    The shown arguments are redacted; the hash is of the arguments themselves.
    """

    tool: Tool
    arguments: dict[str, Any]
    binds: str

    @classmethod
    def of(cls, tool: Tool, text: str) -> ApprovalCall:
        """Read a call from its arguments as the model wrote them. Raises InvalidInput for wrong ones."""
        arguments = tool.validated(text)
        given = from_json(repaired(text or "{}"))  # a type of the author's may write less than it was given
        bound = to_json({"tool": tool.name, "arguments": _sorted(arguments), "given": _sorted(given)})
        return cls(tool, arguments, hashlib.sha256(bound).hexdigest())

    @property
    def is_too_long(self) -> bool:
        """Whether its arguments cannot be shown whole, so that nobody can approve it."""
        return len(json.dumps(self.arguments, ensure_ascii=False)) > _MAX_SHOWN_CHARS

    def subject(self, agent_id: str, rule: ApprovalRule) -> dict[str, Any]:
        """The subject of the question, as data, with all of its arguments."""
        needs = {} if rule.count == 1 else {NEEDED: rule.count}
        return {
            "kind": APPROVAL,
            "tool": self.tool.name,
            "arguments": redact_data(self.arguments),
            "agent_id": agent_id,
            "does": self.tool.description.strip().partition("\n")[0],
            **needs,
            **({} if rule.not_requester else {REQUESTER_MAY: True}),
        }

    def question(self, agent_id: str, request: str) -> str:
        """The question as a sentence: who wants to do what, and why."""
        shown = redact_data(self.arguments)
        listed = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())
        listed = redact(listed)
        if len(listed) > _MAX_ARGUMENTS_CHARS:
            listed = f"{len(listed):,} characters of {', '.join(shown)}: the inbox shows them whole"
        request = " ".join(redact(request).split())
        if len(request) > _MAX_REQUEST_CHARS:
            request = f"{request[: _MAX_REQUEST_CHARS - 3]}..."
        purpose = f', to do this task: "{request}"' if request else ""
        return f"{agent_id} wants to run {self.tool.name}({listed}){purpose}. May it?"


def rule_for(
    rules: Iterable[ApprovalRule], call: ApprovalCall, *, agent_id: str, tenant_id: str
) -> ApprovalRule | None:
    """The rule that counts for a call, or None if it needs no approval: the first that matches."""
    for rule in rules:
        if _is_for(rule, call.tool, agent_id, tenant_id) and _fit(rule.arguments, call.arguments):
            return rule if rule.ask != "never" else None
    return ApprovalRule() if call.tool.needs_approval else None


def may_need_approval(rules: Iterable[ApprovalRule], tool: Tool, *, agent_id: str, tenant_id: str) -> bool:
    """Whether a call of a tool can need an approval, whatever its arguments."""
    asking = (rule for rule in rules if rule.ask != "never")
    return tool.needs_approval or any(_is_for(rule, tool, agent_id, tenant_id) for rule in asking)


def _is_for(rule: ApprovalRule, tool: Tool, agent_id: str, tenant_id: str) -> bool:
    named = (tool.name, rule.tool), (agent_id, rule.agent), (tenant_id, rule.tenant)
    return all(fnmatchcase(name, pattern) for name, pattern in named)


def _fit(patterns: Mapping[str, str], arguments: Mapping[str, Any]) -> bool:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
    }
    return all(name in texts and fnmatchcase(texts[name], pattern) for name, pattern in patterns.items())


def _sorted(value: Any) -> Any:
    return json.dumps(value, sort_keys=True)
