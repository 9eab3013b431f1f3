"""The names of topics, and the patterns that select them. Nowhere else is a topic's name put together.

A topic is segments joined by dots here; a host whose broker separates otherwise translates at its border.
In a pattern `*` stands for one segment and a final `#` for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable

TASK_RESULTS = "task-results"
TASK_PROGRESS = "task-progress"
TRACES = "traces"
MESH = "mesh-events"
AGENTS = "agents"
SPEND = "spend"
BOARD = "board"

APPLICATION = "app."
"""Begins the topics and the types of the events that callers publish, and no others."""

MODEL_DELTA = "model.delta"
"""The type of the events on TASK_PROGRESS that carry pieces of a model's answer. No log has them."""


def tasks(agent_id: str) -> str:
    """The topic on which an agent is given its tasks."""
    return f"tasks.{agent_id}"


def type_on(topic: str, event_type: str) -> str:
    """The type of an event of this topic: on a topic of callers it is of their own, none of the mesh's."""
    if topic.startswith(APPLICATION) and not event_type.startswith(APPLICATION):
        return f"{APPLICATION}{event_type}"
    return event_type


def is_pattern(topic: str) -> bool:
    """Whether a topic selects others than its own name."""
    parts = topic.split(".")
    return "*" in parts or parts[-1] == "#"


def matcher(pattern: str) -> Callable[[str], bool]:
    """Compile a pattern to a test of a topic's name."""
    parts = pattern.split(".")
    if "#" in parts[:-1]:
        raise ValueError(f"'#' may only end a topic pattern, not {pattern!r}")
    if not is_pattern(pattern):
        return pattern.__eq__
    open_ended = parts[-1] == "#"
    fixed = parts[:-1] if open_ended else parts

    def matches(topic: str) -> bool:
        segments = topic.split(".")
        if len(segments) < len(fixed) or (len(segments) > len(fixed) and not open_ended):
            return False
        return all(part in ("*", segment) for part, segment in zip(fixed, segments, strict=False))

    return matches
