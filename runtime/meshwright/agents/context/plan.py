"""Requests to the context-service, and the plan of a context by the rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import field
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from meshwright.agents.context.memory import MemoryItem
from meshwright.agents.context.rules import ANY, ContextRule, Rules, strip
from meshwright.agents.context.text import count_tokens, within_budget
from meshwright.core.encoding import Struct
from meshwright.core.ids import Identifier
from meshwright.core.messages import SenderContext

_MAX_CONTEXT_TOKENS = 4000  # of memories, before the context-service has its say
_MAX_SUMMARY_CHARS = 16_000
_MAX_ITEMS = 200  # of one list
_MAX_REQUEST_CHARS = 100_000  # all text of a request; keeps planning under 20 ms
_MAX_DEPTH = 8  # of objects and lists within one field

CompressionMethod = Literal["deterministic", "model", "deterministic-fallback"]
_Item = str | dict[str, Any]


_OneOrMany = BeforeValidator(lambda value: [value] if isinstance(value, (str, dict)) else value)
_LinesOrMany = BeforeValidator(
    lambda value: [line for line in value.splitlines() if line.strip()] if isinstance(value, str) else value
)
_Items = Annotated[list[_Item], _OneOrMany, Field(max_length=_MAX_ITEMS)]
_Conversation = Annotated[list[_Item], _LinesOrMany, Field(max_length=_MAX_ITEMS)]
_Priority = Annotated[int, Field(ge=0, le=10)] | Annotated[str, StringConstraints(max_length=32)]


class CompressRequest(BaseModel):
    """Everything that a sender knows and a receiver may need for one task, as it comes in: it is checked.

    An item is a text, or an object whose `text` (or `content`) is the text and whose other fields say more
    about it, such as a memory's score; the rules decide which of those are passed on. Memories are in order
    of relevance, or carry a `score`; a conversation is oldest first, as one text a line each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sender: Identifier
    receiver: Identifier
    project_id: Identifier
    task_summary: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=_MAX_SUMMARY_CHARS)
    ]
    priority: _Priority = 5
    workflow_state: str | dict[str, Any] = ""
    sender_memories: _Items = Field(default_factory=list)
    sender_questions: _Items = Field(default_factory=list)
    conversation_snippet: _Conversation = Field(default_factory=list)
    constraints: _Items = Field(default_factory=list)
    known_failures: _Items = Field(default_factory=list)

    @model_validator(mode="after")
    def _within_limits(self) -> CompressRequest:
        if sum(_sizes([value for _, value in self], 0)) > _MAX_REQUEST_CHARS:
            raise ValueError(f"a request may hold {_MAX_REQUEST_CHARS} characters of text; send less of it")
        return self


def _sizes(value: object, depth: int) -> Iterator[int]:
    """The length of each text within a value. Raises ValueError where it is nested too deep."""
    if depth > _MAX_DEPTH + 1:
        raise ValueError(f"an item may be nested {_MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        yield sum(map(len, value))
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _sizes(part, depth + 1)
    else:
        yield len(str(value))


class ContextRequest(CompressRequest):
    """A request that may have no summary of its task, as a run makes it, whose model has the task itself."""

    task_summary: Annotated[str, StringConstraints(max_length=_MAX_SUMMARY_CHARS)] = ""


class ContextPlan(Struct, kw_only=True):
    """The context that the rules make of a request.

    `text` is the deterministic text, whole. `input_tokens` is what the request would have been without
    rules. `verbatim` are the texts that a shorter version must hold word for word; empty under the ceiling.
    """

    version: int = 1
    text: str
    input_tokens: int
    output_tokens: int
    token_ceiling: int
    verbatim: list[str] = field(default_factory=list)

    @property
    def over_ceiling(self) -> bool:
        """Whether the text is to be compressed by a model."""
        return self.output_tokens > self.token_ceiling


class CompressStats(Struct):
    """The result of a compression: tokens before and after, their ratio, and how long it took.

    `over_ceiling` says that the text has more tokens than the ceiling of its sender and receiver.
    """

    input_tokens: int
    output_tokens: int
    ratio: float
    duration_ms: float
    over_ceiling: bool = False


class CompressResponse(Struct):
    """The context to give to the receiver, and how it was made.

    `method` is `deterministic` (by rules alone, the text was under the ceiling), `model` (a model made it
    shorter, and it was found valid) or `deterministic-fallback` (it was over the ceiling, and `error` says
    why there is no valid shorter text: this is the one by rules, whole).
    """

    success: bool
    compressed_context: str
    method: CompressionMethod
    stats: CompressStats
    validation_passed: bool
    error: str | None = None


def context_request(
    *,
    sender: str,
    receiver: str,
    memories: Sequence[MemoryItem],
    handed_on: SenderContext | None = None,
    project_id: str = "default",
    max_tokens: int = _MAX_CONTEXT_TOKENS,
) -> ContextRequest:
    """Ask for the context of an agent's run: what its sender passes on, then memories, as many as fit.

    The request that it works on and the conversation reach its model by themselves, as messages. `sender` is
    who asks the agent: the delegating agent, or the orchestrator.
    """
    passed_on = handed_on or SenderContext()
    return ContextRequest.model_construct(  # of parts that are checked
        sender=sender,
        constraints=[*passed_on.constraints],
        known_failures=[*passed_on.known_failures],
        sender_questions=[*passed_on.questions],
        workflow_state=passed_on.workflow_state,
        receiver=receiver,
        project_id=project_id,
        sender_memories=[_said(item) for item in within_budget(memories, max_tokens)],
    )


def _said(item: MemoryItem) -> str:
    """A memory with its id, its day and its source."""
    day = "" if item.created_at is None else f"on {item.created_at:%Y-%m-%d}"
    source = " ".join(filter(None, (day, f"by {item.agent_id}" if item.agent_id else "")))
    return f"[{item.memory_id}] {item.text}{f' (noted {source})' if source else ''}"


# The plan

METADATA = "METADATA"
DOMAIN_CONTEXT = "DOMAIN_CONTEXT"
SECTIONS = {
    "constraints": "CONSTRAINTS",
    "known_failures": "KNOWN_FAILURES",
    "sender_memories": "RELEVANT_MEMORIES",
    "conversation_snippet": "CONVERSATION_CONTEXT",
    "sender_questions": "OPEN_QUESTIONS",
}
"""The sections of lists, in their order, by the field of the request that fills each."""

_SPEAKER_KEYS = ("role", "sender", "author", "speaker")
_TEXT_KEYS = ("text", "content", "memory", "summary", "message", "question", "description", "value")


class _Draft:
    """The entries of each section by a rule, and every text that it left out."""

    def __init__(self, request: CompressRequest, rule: ContextRule) -> None:
        self.rule = rule
        self.kept: dict[str, Any] = {}
        self.dropped: list[str] = []
        self.sections: dict[str, list[str]] = {}
        if request.task_summary:
            self.sections[METADATA] = [*self._metadata(request), *self._state(request)]
            self.sections[DOMAIN_CONTEXT] = [_entry(request.task_summary)]
        elif state := list(self._state(request)):
            self.sections[METADATA] = state
        for name, section in SECTIONS.items():
            items: list[Any] = getattr(request, name)
            rest = self._keep(name, self._chosen(name, items)) if items else None
            if entries := [entry for entry in map(_entry, rest or ()) if entry]:
                self.sections[section] = entries

    def render(self) -> str:
        lines: list[str] = []
        for name, entries in self.sections.items():
            lines.append(f"{name}:")
            lines.extend(entries if name == METADATA else [f"- {entry}" for entry in entries])
        return "\n".join(lines)

    def verbatim(self) -> list[str]:
        paths = (path.split(".") for path in self.rule.preserve_fields)
        return [
            text
            for field_name, *rest in paths
            for name, value in self.kept.items()
            if field_name in (ANY, name)
            for text in _texts_at(value, rest)
        ]

    def _keep(self, name: str, value: Any) -> Any:
        self.kept[name] = rest = strip(value, self.rule.paths.get(name, {}), self.dropped)
        return rest

    def _metadata(self, request: CompressRequest) -> Iterator[str]:
        yield f"sender: {request.sender}"
        yield f"receiver: {request.receiver}"
        yield f"project_id: {request.project_id}"
        yield from _leaves(self._keep("priority", request.priority), "priority")

    def _state(self, request: CompressRequest) -> Iterator[str]:
        if request.workflow_state:
            yield from _leaves(self._keep("workflow_state", request.workflow_state), "workflow_state")

    def _chosen(self, name: str, items: list[Any]) -> list[Any]:
        """All of a field's items, or of memories the most relevant, of messages the latest."""
        rule = self.rule
        messages = rule.max_conversation_messages
        limit = {"sender_memories": rule.max_memories, "conversation_snippet": messages}.get(name, len(items))
        if len(items) <= limit or name in rule.preserve_fields:
            return items
        if name == "sender_memories":
            ranked = sorted(items, key=_score, reverse=True)
            chosen, left_out = ranked[:limit], ranked[limit:]
        else:
            left_out, chosen = items[: len(items) - limit], items[len(items) - limit :]
        self.dropped.extend(map(_entry, left_out))
        return chosen


def _score(item: Any) -> float:
    score = item.get("score") if isinstance(item, dict) else None
    return float(score) if isinstance(score, int | float) else 0.0


def _entry(item: Any) -> str:
    """An item as text: what was said, by whom, and in brackets what else is known of it."""
    text = item if isinstance(item, str) else _described(item)
    lines = text.strip().splitlines()
    return "\n  ".join(lines) if len(lines) > 1 else text.strip()


def _described(item: Mapping[str, Any]) -> str:
    speaker = next((key for key in _SPEAKER_KEYS if key in item), "")
    main = next((key for key in _TEXT_KEYS if isinstance(item.get(key), str)), "")
    others = ", ".join(
        f"{key}: {_line(field_value)}" for key, field_value in item.items() if key not in (speaker, main)
    )
    if not main:
        return f"{item[speaker]}: {others}" if speaker else others
    text = f"{item[speaker]}: {item[main]}" if speaker else item[main]
    return f"{text} ({others})" if others else text


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return " ".join(text.split())


def _leaves(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{_line(key)}")
    elif value is not None:
        yield f"{path}: {_line(value)}"


def _texts_at(value: Any, path: list[str]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _texts_at(item, path)
    elif isinstance(value, dict):
        below = [value[path[0]]] if path and path[0] in value else [] if path else value.values()
        for part in below:
            yield from _texts_at(part, path[1:])
    elif not path:
        yield str(value)


def plan(request: CompressRequest, rules: Rules) -> ContextPlan:
    """Apply the rule of a request's sender and receiver to it, and count the result."""
    rule = rules.find(request.sender, request.receiver)
    draft = _Draft(request, rule)
    text = draft.render()
    tokens = count_tokens(text)
    return ContextPlan(
        text=text,
        input_tokens=tokens + count_tokens("\n".join(draft.dropped)),
        output_tokens=tokens,
        token_ceiling=rule.token_ceiling,
        verbatim=draft.verbatim() if tokens > rule.token_ceiling else [],
    )
