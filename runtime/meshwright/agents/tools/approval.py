"""Approvals: which calls of tools wait for a person, and what a decision is bound to.

A decision holds in one task, for one tool with one set of arguments, on one system, and for one effect where
the tool has a preview: it names the hash of the task, the validated arguments with their defaults, the system
and the effect, which are compared where the tool is executed. A fork is another task: it asks again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from msgspec import field
from pydantic_core import from_json, to_json

from meshwright.agents.tools.settings import ApprovalRule, ApprovalsSettings
from meshwright.agents.tools.tool import Tool, Unchanged
from meshwright.core.encoding import Struct
from meshwright.core.redaction import Marks, redact, redact_data
from meshwright.engine.work.people import APPROVAL, HIDDEN, MAX_SHOWN_CHARS, NEEDED, REQUESTER_MAY, Approval
from meshwright.models.structure import repaired

_MAX_REQUEST_CHARS = 200
_MAX_ARGUMENTS_CHARS = 2_000  # in the question itself, which chats show
_MAX_EFFECT_CHARS = 32_000  # with it too
_MAX_CHAT_CHARS = 1_500  # of an effect, in the question itself
_MAX_SCHEMA_CHARS = 8_192  # of the arguments, with it
_OTHER_REFERENCE = re.compile(r'"\$ref": "(?!#/\$defs/)')  # it has no such target in the answer's schema


class RequestedArguments(NamedTuple):
    """The arguments of a call as JSON text, and the person who changed them, if any did."""

    arguments: str
    changed_by: str = ""


class ChangedCall(NamedTuple):
    """Tells a question of earlier answers: who changed the arguments, and why some were refused.

    `before` has those of the model that differ; None for one that it did not give.
    """

    by: str = ""
    before: Mapping[str, Any] = {}
    refused: str = ""

    @classmethod
    def compare(
        cls, call: ApprovalCall | None, first: ApprovalCall | None, by: str, refused: str
    ) -> ChangedCall:
        """Compare a call with that of the model, where a person has changed it."""
        if not by or call is None or first is None:
            return cls(by, refused=refused)
        old, new = first.arguments, call.arguments
        before = {name: old.get(name) for name in old | new if old.get(name) != new.get(name)}
        is_shown = len(json.dumps([before, new], ensure_ascii=False)) <= MAX_SHOWN_CHARS
        return cls(by, before if is_shown else {}, refused)

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


_AS_REQUESTED = ChangedCall()
_NO_MASKS: Mapping[str, str] = {}
MARKED = ("arguments", "target", "changed_from")
"""The fields of the subject of a question that still get their marks: its effect has them."""


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Arguments that a person gave, as the JSON text of a call."""
    return json.dumps(arguments, ensure_ascii=False)


class Preview(Struct):
    """The effect that a call would have, as it is shown, and the hash of all of it; or why it is unknown.

    `is_none` says that the call would change nothing, since all is so already. In the journal the effect has
    marks in place of secrets: `hidden` counts what they hide, and `sealed` is all of it, encrypted.
    """

    effect: Any = None
    hash: str = ""
    hidden: dict[str, int] = field(default_factory=dict)
    sealed: str = ""
    error: str = ""
    is_none: bool = False

    @classmethod
    def parse(cls, effect: Any) -> Preview:
        """Read what a tool says, plain data; one that is None binds nothing."""
        if effect is None:
            return cls()
        if isinstance(effect, Unchanged):
            return cls.parse(effect.shown).model_copy(update={"is_none": True})
        text = effect if isinstance(effect, str) else json.dumps(effect, ensure_ascii=False, sort_keys=True)
        if len(text) > _MAX_EFFECT_CHARS:
            problem = f"its effect has {len(text):,} characters, and only {_MAX_EFFECT_CHARS:,} can be shown"
            return cls(error=f"{problem} to those who approve it. Change less at a time")
        return cls(effect=effect, hash=hashlib.sha256(text.encode(errors="replace")).hexdigest())


_NO_PREVIEW = Preview()


@dataclass(frozen=True, slots=True)
class ApprovalCall:
    """A call of a tool that may need an approval: its validated arguments, and the hash that binds them.

    The arguments are as they are, and those that are shown have marks; so has the effect of the `preview`.
    """

    tool: Tool
    arguments: dict[str, Any]
    binds: str
    preview: Preview = _NO_PREVIEW

    @classmethod
    def parse(cls, tool: Tool, text: str, task_id: str) -> ApprovalCall:
        """Read a call of a task from its arguments as the model wrote them.

        Raises InvalidInput for wrong ones.
        """
        arguments = tool.validated(text)
        sent = from_json(repaired(text or "{}"))  # a type of the author's may write less than it was given
        bound = {"task": task_id, "tool": tool.name, "arguments": _sorted(arguments), "given": _sorted(sent)}
        bound |= {"target": tool.target} if tool.target else {}
        return cls(tool, arguments, hashlib.sha256(to_json(bound)).hexdigest())

    def with_effect(self, effect_hash: str, preview: Preview = _NO_PREVIEW) -> ApprovalCall:
        """The call bound to the effect that has a hash; without one, the call itself."""
        if not effect_hash:
            return self
        binds = hashlib.sha256(f"{self.binds}/{effect_hash}".encode()).hexdigest()
        return replace(self, binds=binds, preview=preview)

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
        self,
        agent_id: str,
        rule: ApprovalRule,
        *,
        outside: bool = False,
        change: ChangedCall = _AS_REQUESTED,
        masks: Mapping[str, str] = _NO_MASKS,
    ) -> dict[str, Any]:
        """The subject of the question, as data, with all of its arguments, and marks in its effect alone.

        `masks` says what the masks in its arguments stand for.
        """
        needs = {} if rule.count == 1 else {NEEDED: rule.count}
        return {
            "kind": APPROVAL,
            "tool": self.tool.name,
            "arguments": self.arguments,
            "agent_id": agent_id,
            "does": self.tool.description.strip().partition("\n")[0],
            "why": self.why(rule, outside=outside),
            **({"target": self.tool.target} if self.tool.target else {}),
            **({} if self.preview.effect is None else {"effect": self.preview.effect}),
            **({HIDDEN: self.preview.hidden} if self.preview.hidden else {}),
            **({"masks": masks} if masks else {}),
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
        self,
        agent_id: str,
        request: str,
        *,
        outside: bool = False,
        change: ChangedCall = _AS_REQUESTED,
        notes: Iterable[str] = (),
    ) -> str:
        """The question as sentences: who wants to do what, and why. `notes` say what is hidden."""
        marks = Marks()
        visible = redact_data(self.arguments, marks)
        listed = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in visible.items()
        )
        listed = redact(listed, marks)
        if len(listed) > _MAX_ARGUMENTS_CHARS:
            listed = f"{len(listed):,} characters of {', '.join(visible)}: the inbox shows them whole"
        request = " ".join(redact(request, marks).split()).removesuffix(".")
        if len(request) > _MAX_REQUEST_CHARS:
            request = f"{request[: _MAX_REQUEST_CHARS - 3]}..."
        purpose = f', to do this task: "{request}"' if request else ""
        warning = f" {_READ_OUTSIDE}" if outside else ""
        noted = "".join(f" {note}" for note in notes if note)
        call = f"{self.tool.name}({listed})"
        question = f"{agent_id} wants to run {call}{purpose}.{warning}{change.text}{noted} May it?"
        return question if self.preview.effect is None else f"{question}\nIts effect:\n{self._short_effect}"

    @property
    def _short_effect(self) -> str:
        effect = self.preview.effect
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
    patterns = (tool.name, rule.tool), (agent_id, rule.agent), (tenant_id, rule.tenant)
    is_meant = rule.effect in (None, tool.effect) and rule.after_outside in (None, outside)
    return is_meant and all(fnmatchcase(name, pattern) for name, pattern in patterns)


def _fit(patterns: Mapping[str, str], arguments: Mapping[str, Any]) -> bool:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
    }
    return all(name in texts and fnmatchcase(texts[name], pattern) for name, pattern in patterns.items())


def _sorted(value: Any) -> Any:
    return json.dumps(value, sort_keys=True)
