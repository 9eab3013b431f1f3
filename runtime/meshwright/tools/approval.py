"""Approvals: which calls of tools wait for a person, and what a decision is bound to.

A decision holds for one tool with one set of arguments, on one system, and for one effect where the tool has
a preview: it names the hash of the validated arguments with their defaults, of the system and of the effect,
which are compared where the tool is executed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.core.encoding import Struct
from meshwright.core.errors import ToolFailed
from meshwright.core.redaction import redact, redact_data
from meshwright.models.structure import repaired
from meshwright.tools.settings import ApprovalRule, ApprovalsSettings
from meshwright.tools.tool import Tool, Unchanged
from meshwright.work.people import APPROVAL, NEEDED, REQUESTER_MAY, Approval

_MAX_REQUEST_CHARS = 200
_MAX_ARGUMENTS_CHARS = 2_000  # in the question itself, which chats show
_MAX_EFFECT_CHARS = 32_000  # with it too
_MAX_CHAT_CHARS = 1_500  # of an effect, in the question itself
_MAX_SCHEMA_CHARS = 8_192  # of the arguments, with it
_OTHER_REFERENCE = re.compile(r'"\$ref": "(?!#/\$defs/)')  # it has no such target in the answer's schema
MAX_SHOWN_CHARS = 64_000
"""How long the arguments of a call may be, as JSON: an open question shows them whole, and is a part of its
thread's state."""


class Decision(Struct):
    """An answer as it is recorded: who gave it, when, what it is bound to, and until when it may be used.

    `arguments` replace those of the call; None: as asked. `effect` is the hash of the effect that was shown,
    `error` why no person was asked.
    """

    approve: bool
    reason: str = ""
    arguments: dict[str, Any] | None = None
    decided_by: str = ""
    decided_at: datetime | None = None
    binds: str = ""
    expires_at: datetime | None = None
    effect: str = ""
    error: str = ""

    def covers(self, call: ApprovalCall, now: datetime) -> bool:
        """Whether it is a yes to this very call."""
        is_in_time = self.expires_at is None or now <= self.expires_at
        return self.approve and self.binds == call.binds and is_in_time

    def check(self, tool: str, binds: str, now: datetime) -> None:
        """Raise ToolFailed if the call may not run, with the message for its model."""
        if self.error:
            raise ToolFailed(f"{tool} was not run: {self.error}")
        if not self.approve:
            who = f"{self.decided_by} denied it" if self.decided_by else "it was not approved in time"
            raise ToolFailed(f"{tool} was not run: {who}{f': {self.reason}' if self.reason else ''}")
        if self.binds != binds:
            raise ToolFailed(f"{tool} was not run: {self.decided_by} approved it with other arguments")
        if self.expires_at is not None and now > self.expires_at:
            raise ToolFailed(f"{tool} was not run: its approval has expired", remedy="Call it again")


class Asked(NamedTuple):
    """The arguments of a call as JSON text, and the person who changed them, if any did."""

    arguments: str
    changed_by: str = ""


class Change(NamedTuple):
    """Tells a question of earlier answers: who changed the arguments, and why some were refused.

    `before` has those of the model that differ; None for one that it did not give.
    """

    by: str = ""
    before: Mapping[str, Any] = {}
    refused: str = ""

    @classmethod
    def of(cls, call: ApprovalCall | None, first: ApprovalCall | None, by: str, refused: str) -> Change:
        """Compare a call with that of the model, where a person has changed it."""
        if not by or call is None or first is None:
            return cls(by, refused=refused)
        old, new = first.arguments, call.arguments
        before = {name: old.get(name) for name in old | new if old.get(name) != new.get(name)}
        is_shown = len(json.dumps([before, new], ensure_ascii=False)) <= MAX_SHOWN_CHARS
        return cls(by, redact_data(before) if is_shown else {}, refused)

    @property
    def subject(self) -> dict[str, Any]:
        """Its part of the subject of the question."""
        fields = {"changed_by": self.by, "changed_from": self.before, "refused": self.refused}
        return {name: field for name, field in fields.items() if field}

    @property
    def text(self) -> str:
        """Its part of the question, with a space before it."""
        changed = f" {self.by} changed the arguments." if self.by else ""
        return f"{changed} The last answer was not accepted: {self.refused}." if self.refused else changed


_AS_ASKED = Change()


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Arguments that a person gave, as the JSON text of a call."""
    return json.dumps(arguments, ensure_ascii=False)


class Preview(Struct):
    """The effect that a call would have, as it is shown, and the hash of all of it; or why it is unknown.

    `is_none` says that the call would change nothing, since all is so already.
    """

    effect: Any = None
    hash: str = ""
    error: str = ""
    is_none: bool = False

    @classmethod
    def of(cls, effect: Any) -> Preview:
        """Read what a tool says, plain data; one that is None binds nothing."""
        if effect is None:
            return cls()
        if isinstance(effect, Unchanged):
            return cls.of(effect.shown).model_copy(update={"is_none": True})
        text = effect if isinstance(effect, str) else json.dumps(effect, ensure_ascii=False, sort_keys=True)
        if len(text) > _MAX_EFFECT_CHARS:
            problem = f"its effect has {len(text):,} characters, and only {_MAX_EFFECT_CHARS:,} can be shown"
            return cls(error=f"{problem} to those who approve it. Change less at a time")
        return cls(effect=redact_data(effect), hash=hashlib.sha256(text.encode(errors="replace")).hexdigest())


@dataclass(frozen=True, slots=True)
class ApprovalCall:
    """A call of a tool that may need an approval: its validated arguments, and the hash that binds them.

    The shown arguments are redacted, and so is the `effect`; the hash is of both as they are.
    """

    tool: Tool
    arguments: dict[str, Any]
    binds: str
    effect: Any = None

    @classmethod
    def of(cls, tool: Tool, text: str) -> ApprovalCall:
        """Read a call from its arguments as the model wrote them. Raises InvalidInput for wrong ones."""
        arguments = tool.validated(text)
        given = from_json(repaired(text or "{}"))  # a type of the author's may write less than it was given
        bound = {"tool": tool.name, "arguments": _sorted(arguments), "given": _sorted(given)}
        bound |= {"target": tool.target} if tool.target else {}
        return cls(tool, arguments, hashlib.sha256(to_json(bound)).hexdigest())

    def with_effect(self, effect_hash: str, effect: Any = None) -> ApprovalCall:
        """The call bound to the effect that has a hash; without one, the call itself."""
        if not effect_hash:
            return self
        binds = hashlib.sha256(f"{self.binds}/{effect_hash}".encode()).hexdigest()
        return replace(self, binds=binds, effect=effect)

    @property
    def is_too_long(self) -> bool:
        """Whether its arguments cannot be shown whole, so that nobody can approve it."""
        return len(json.dumps(self.arguments, ensure_ascii=False)) > MAX_SHOWN_CHARS

    @property
    def answer_schema(self) -> dict[str, Any]:
        """The schema of an answer, with that of the tool's arguments where an open question can hold it."""
        parameters = {"type": "object", **self.tool.parameters}
        text = json.dumps(parameters, ensure_ascii=False)
        if len(text) > _MAX_SCHEMA_CHARS or _OTHER_REFERENCE.search(text):
            parameters = {"type": "object"}
        definitions = {"$defs": parameters.pop("$defs")} if "$defs" in parameters else {}
        schema = Approval.model_json_schema()
        changed = {**parameters, "description": "The arguments to run it with instead, all of them."}
        return {**schema, **definitions, "properties": {**schema["properties"], "arguments": changed}}

    def subject(
        self, agent_id: str, rule: ApprovalRule, *, outside: bool = False, change: Change = _AS_ASKED
    ) -> dict[str, Any]:
        """The subject of the question, as data, with all of its arguments."""
        needs = {} if rule.count == 1 else {NEEDED: rule.count}
        return {
            "kind": APPROVAL,
            "tool": self.tool.name,
            "arguments": redact_data(self.arguments),
            "agent_id": agent_id,
            "does": self.tool.description.strip().partition("\n")[0],
            "why": self.why(rule, outside=outside),
            **({"target": redact(self.tool.target)} if self.tool.target else {}),
            **({} if self.effect is None else {"effect": self.effect}),
            **change.subject,
            **needs,
            **({} if rule.not_requester else {REQUESTER_MAY: True}),
        }

    def why(self, rule: ApprovalRule, *, outside: bool) -> str:
        """Says why the call needs an approval."""
        if rule is not _AFTER_OUTSIDE:
            why = "The tool asks for it." if rule is _OF_TOOL else "A rule in [approvals] asks for it."
            return f"{why} {_READ_OUTSIDE}" if outside else why
        return f"{_READ_OUTSIDE} Such text may have asked for this call."

    def question(
        self, agent_id: str, request: str, *, outside: bool = False, change: Change = _AS_ASKED
    ) -> str:
        """The question as sentences: who wants to do what, and why."""
        shown = redact_data(self.arguments)
        listed = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())
        listed = redact(listed)
        if len(listed) > _MAX_ARGUMENTS_CHARS:
            listed = f"{len(listed):,} characters of {', '.join(shown)}: the inbox shows them whole"
        request = " ".join(redact(request).split()).removesuffix(".")
        if len(request) > _MAX_REQUEST_CHARS:
            request = f"{request[: _MAX_REQUEST_CHARS - 3]}..."
        purpose = f', to do this task: "{request}"' if request else ""
        warning = f" {_READ_OUTSIDE}" if outside else ""
        asked = f"{agent_id} wants to run {self.tool.name}({listed}){purpose}.{warning}{change.text} May it?"
        return asked if self.effect is None else f"{asked}\nIts effect:\n{self._short_effect}"

    @property
    def _short_effect(self) -> str:
        effect = self.effect
        text = effect if isinstance(effect, str) else json.dumps(effect, ensure_ascii=False, indent=1)
        if len(text) <= _MAX_CHAT_CHARS:
            return text
        return f"{text[:_MAX_CHAT_CHARS]}...\n({len(text):,} characters: the inbox shows them whole)"


_OF_TOOL, _AFTER_OUTSIDE = ApprovalRule(), ApprovalRule(after_outside=True)
_READ_OUTSIDE = "Its run has read text that strangers may have written."


def rule_for(
    settings: ApprovalsSettings, call: ApprovalCall, *, agent_id: str, tenant_id: str, outside: bool = False
) -> ApprovalRule | None:
    """The rule that counts for a call, or None if it needs no approval: the first that matches.

    `outside` says that the run has read text from outside.
    """
    for rule in settings.rules:
        if _is_for(rule, call.tool, agent_id, tenant_id, outside) and _fit(rule.arguments, call.arguments):
            return rule if rule.ask != "never" else None
    if call.tool.needs_approval:
        return _OF_TOOL
    return _AFTER_OUTSIDE if outside and _asks_after_outside(settings, call.tool) else None


def may_need_approval(
    settings: ApprovalsSettings, tool: Tool, *, agent_id: str, tenant_id: str, outside: bool = False
) -> bool:
    """Whether a call of a tool can need an approval, whatever its arguments."""
    if tool.needs_approval or (outside and _asks_after_outside(settings, tool)):
        return True
    asking = (rule for rule in settings.rules if rule.ask != "never")
    return any(_is_for(rule, tool, agent_id, tenant_id, outside) for rule in asking)


def _asks_after_outside(settings: ApprovalsSettings, tool: Tool) -> bool:
    return settings.after_outside == "ask" and tool.may_change


def _is_for(rule: ApprovalRule, tool: Tool, agent_id: str, tenant_id: str, outside: bool) -> bool:
    named = (tool.name, rule.tool), (agent_id, rule.agent), (tenant_id, rule.tenant)
    is_meant = rule.effect in (None, tool.effect) and rule.after_outside in (None, outside)
    return is_meant and all(fnmatchcase(name, pattern) for name, pattern in named)


def _fit(patterns: Mapping[str, str], arguments: Mapping[str, Any]) -> bool:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
    }
    return all(name in texts and fnmatchcase(texts[name], pattern) for name, pattern in patterns.items())


def _sorted(value: Any) -> Any:
    return json.dumps(value, sort_keys=True)
