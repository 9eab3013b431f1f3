"""Which rules hold between a sender and a receiver: what is left out, kept, and how much may be said."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from meshwright.context.request import CompressRequest, Plan
from meshwright.context.text import count_tokens
from meshwright.messages import ID_PATTERN

ANY = "*"
_OPTIONAL_FIELDS = tuple(
    name for name, field in CompressRequest.model_fields.items() if not field.is_required()
)
_INTERNAL_KEYS = (
    *(
        "id",
        "memory_id",
        "message_id",
        "task_id",
        "thread_id",
        "tenant_id",
        "user_id",
        "agent_id",
        "scope_id",
    ),
    *("score", "relevance", "similarity", "distance", "rank", "embedding"),
    *("timestamp", "time", "ts", "created_at", "updated_at", "accessed_at", "expires_at"),
)
_INTERNAL = tuple(f"{ANY}.{key}" for key in _INTERNAL_KEYS)
"""What the machinery adds to items, and no receiver needs: ids, scores and times."""

VERDICT = None  # the key, in a tree of paths, of whether what stands there is kept: no JSON has it
Tree = Mapping[str | None, Any]
"""Paths by their segments, each with a verdict or none of its own; the longest path decides."""


def _checked(path: str, fields: Collection[str]) -> str:
    field, *rest = path.split(".")
    if not all((field, *rest)) or (field == ANY and not rest):
        raise ValueError(f"{path!r} is not a dotted path such as sender_memories.score or *.score")
    if field != ANY and field not in fields:
        raise ValueError(f"{path!r} must begin with one of {', '.join(fields)}, or *")
    return path


_StripPath = Annotated[str, AfterValidator(partial(_checked, fields=_OPTIONAL_FIELDS))]
_PreservePath = Annotated[str, AfterValidator(partial(_checked, fields=tuple(CompressRequest.model_fields)))]
_Party = Annotated[str, Field(pattern=rf"^\*$|{ID_PATTERN}")]


class Rule(BaseModel):
    """How a request from `sender` to `receiver` (each an agent's id, or `*`) is compressed.

    `strip_fields`: dotted paths of what is left out; `*` stands for any field of the request, and a path
    through a list means each of its items. `preserve_fields`: paths of what is kept where a shorter path
    leaves it out, is not counted against a maximum, and must stand word for word in what a model makes of
    the text. `token_ceiling`: a text of more tokens goes to the compression model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender: _Party = ANY
    receiver: _Party = ANY
    strip_fields: tuple[_StripPath, ...] = _INTERNAL
    preserve_fields: tuple[_PreservePath, ...] = ("constraints",)
    max_memories: int = Field(default=10, ge=0)
    max_conversation_messages: int = Field(default=10, ge=0)
    token_ceiling: int = Field(default=1000, gt=0)

    @cached_property
    def paths(self) -> Tree:
        """The paths to leave out and to keep, field by field of a request."""
        tree: dict[str | None, Any] = {}
        for keep, paths in ((False, self.strip_fields), (True, self.preserve_fields)):
            for first, *rest in (path.split(".") for path in paths):
                for name in _OPTIONAL_FIELDS if first == ANY else (first,):
                    _decide(tree, [name, *rest], keep=keep)
        return tree


class Rules:
    """The rules of a mesh; of those that match a sender and a receiver the most specific holds.

    Both named comes before the receiver alone named, that before the sender alone, and last comes `*` to
    `*`, which is added with its defaults where it is missing. Raises ValueError for two rules of one pair.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[tuple[str, str], Rule] = {}
        for rule in rules:
            pair = (rule.sender, rule.receiver)
            if pair in self._rules:
                raise ValueError(
                    f"there are two context rules from {rule.sender} to {rule.receiver}: keep one"
                )
            self._rules[pair] = rule
        self._general = self._rules.get((ANY, ANY)) or Rule()

    def find(self, sender: str, receiver: str) -> Rule:
        """The rule that holds from this sender to this receiver."""
        rules = self._rules
        return (
            rules.get((sender, receiver))
            or rules.get((ANY, receiver))
            or rules.get((sender, ANY))
            or self._general
        )


DEFAULT_RULES = Rules(
    [
        Rule(sender="project-manager", receiver="architect-agent", token_ceiling=800),
        Rule(sender="project-manager", receiver="researcher-agent", token_ceiling=600),
        Rule(token_ceiling=1000),
    ]
)
"""The rules of a mesh that sets none."""


def strip(value: Any, tree: Tree, dropped: list[str], *, keep: bool = True) -> Any:
    """What the tree keeps of a value, None for nothing; the texts left out are added to `dropped`."""
    keep = tree.get(VERDICT, keep)
    if isinstance(value, dict):
        inner = {key: strip(each, tree.get(key, {}), dropped, keep=keep) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not None} or None
    if isinstance(value, list):
        items = [strip(each, tree, dropped, keep=keep) for each in value]
        return [each for each in items if each is not None] or None
    if not keep and value is not None:
        dropped.append(str(value))
    return value if keep else None


def _decide(tree: dict[str | None, Any], segments: list[str], *, keep: bool) -> None:
    for segment in segments:
        tree = tree.setdefault(segment, {})
    tree[VERDICT] = keep


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
TEXT_KEYS = ("text", "content", "memory", "summary", "message", "question", "description", "value")


@dataclass(slots=True)
class Draft:
    """What a rule makes of a request: the entries of each section, and every text that it left out."""

    rule: Rule
    sections: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def render(self) -> str:
        """The sections as one text."""
        lines: list[str] = []
        for name, entries in self.sections.items():
            lines.append(f"{name}:")
            lines.extend(entries if name == METADATA else [f"- {entry}" for entry in entries])
        return "\n".join(lines)

    def verbatim(self) -> list[str]:
        """The texts at the rule's preserved paths."""
        paths = (path.split(".") for path in self.rule.preserve_fields)
        return [
            text
            for field_name, *rest in paths
            for name, value in self.kept.items()
            if field_name in (ANY, name)
            for text in _texts_at(value, rest)
        ]

    def keep(self, name: str, value: Any) -> Any:
        """Apply the rule's paths to a field of the request."""
        self.kept[name] = kept = strip(value, self.rule.paths.get(name, {}), self.dropped)
        return kept


def draft(request: CompressRequest, rule: Rule) -> Draft:
    """Apply a rule to a request."""
    made = Draft(rule)
    made.sections[METADATA] = list(_metadata(request, made))
    made.sections[DOMAIN_CONTEXT] = [_entry(request.task_summary)]
    for name, section in SECTIONS.items():
        items: list[Any] = getattr(request, name)
        kept = made.keep(name, _chosen(name, items, made)) if items else None
        if entries := [entry for entry in map(_entry, kept or ()) if entry]:
            made.sections[section] = entries
    return made


def _metadata(request: CompressRequest, made: Draft) -> Iterator[str]:
    yield f"sender: {request.sender}"
    yield f"receiver: {request.receiver}"
    yield f"project_id: {request.project_id}"
    yield from _leaves(made.keep("priority", request.priority), "priority")
    if request.workflow_state:
        yield from _leaves(made.keep("workflow_state", request.workflow_state), "workflow_state")


def _chosen(name: str, items: list[Any], made: Draft) -> list[Any]:
    """All of a field's items, or of memories the most relevant, of messages the latest."""
    rule = made.rule
    limits = {"sender_memories": rule.max_memories, "conversation_snippet": rule.max_conversation_messages}
    limit = limits.get(name)
    if limit is None or len(items) <= limit or name in rule.preserve_fields:
        return items
    if name == "conversation_snippet":
        cut = len(items) - limit
        left_out, chosen = items[:cut], items[cut:]
    else:
        ranked = sorted(items, key=_score, reverse=True)
        chosen, left_out = ranked[:limit], ranked[limit:]
    made.dropped.extend(map(_entry, left_out))
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
    main = next((key for key in TEXT_KEYS if isinstance(item.get(key), str)), "")
    others = ", ".join(f"{key}: {_line(each)}" for key, each in item.items() if key not in (speaker, main))
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
        for each in value:
            yield from _texts_at(each, path)
    elif isinstance(value, dict):
        below = [value[path[0]]] if path and path[0] in value else [] if path else value.values()
        for each in below:
            yield from _texts_at(each, path[1:])
    elif not path:
        yield str(value)


def plan(request: CompressRequest, rules: Rules) -> Plan:
    """Apply the rule of a request's sender and receiver to it, and count what came of it."""
    rule = rules.find(request.sender, request.receiver)
    made = draft(request, rule)
    text = made.render()
    tokens = count_tokens(text)
    # Built here, from checked parts: checking it again would take longer than making it.
    return Plan.model_construct(
        version=1,
        text=text,
        input_tokens=tokens + (count_tokens("\n".join(made.dropped)) if made.dropped else 0),
        output_tokens=tokens,
        token_ceiling=rule.token_ceiling,
        verbatim=made.verbatim() if tokens > rule.token_ceiling else [],
    )
