"""The deterministic text of a request: its sections, made by rules alone.

    METADATA:
    sender: project-manager
    receiver: architect-agent
    project_id: mesh
    priority: 5
    DOMAIN_CONTEXT:
    - Decide how the event log is stored.
    CONSTRAINTS:
    - No service may be needed.

A section without entries is left out. A line break within an entry is indented, so that no text of a user
can pass for a section of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshwright.context.request import CompressRequest
from meshwright.context.rules import ANY, Rule, strip

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

SPEAKER_KEYS = ("role", "sender", "author", "speaker")
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
    speaker = next((key for key in SPEAKER_KEYS if key in item), "")
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
