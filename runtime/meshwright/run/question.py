"""What a task asks, as its model is told it: the words, and every other field of the payload by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from meshwright.agent import Agent
from meshwright.messages import Task
from meshwright.tools.tool import cut

_MAX_FIELD_CHARS = 32_000  # of one field beside the words
MAX_CHARS = 100_000  # of all of them


def question_of(agent: Agent, task: Task) -> str:
    """The words of a task, then each other field of its payload under its name: text as it is, else as JSON.

    Fields over the limits are cut, and say so. `tags` are left out where they choose the agent's model.
    """
    parts = [task.text] if task.text.strip() else []
    room = MAX_CHARS
    for name, text in _fields(agent, task):
        shown = cut(text, min(_MAX_FIELD_CHARS, room)) if room else "[left out: the payload is too long]"
        room = max(0, room - len(text))
        parts.append(f"{name}:\n{shown}")
    return "\n\n".join(parts) or summary_of(task)


def summary_of(task: Task) -> str:
    """What a task asks in short: its words, or else its payload as JSON."""
    return task.text or json.dumps(task.payload, ensure_ascii=False)


def _fields(agent: Agent, task: Task) -> Iterator[tuple[str, str]]:
    for name, value in task.payload.items():
        is_words = name == "text" and isinstance(value, str)
        if not is_words and not (name == "tags" and agent.task_tags):
            yield name, _text_of(value)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
