"""The request of a task as its model reads it: what the prompt has of it, then the rest of the payload."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from meshwright.agents.agent import Agent
from meshwright.agents.prompts import Prompt, RenderedPrompt
from meshwright.agents.run.files import payload_files
from meshwright.agents.tools.limited_work import cut
from meshwright.core.messages import Task

_MAX_FIELD_CHARS = 32_000  # of one field of a payload, beside the words
_MAX_QUESTION_CHARS = 100_000  # of all of them
_ALL_IN_PROMPT = "Do what your instructions say. They hold the whole request."


def render_prompt(
    prompt: Prompt, payload: Mapping[str, Any], values: Mapping[str, str]
) -> tuple[RenderedPrompt, tuple[str, ...]]:
    """Fill in a prompt from the `values` of mesh and agent, and from a payload, which replaces none of them.

    Also returns the fields of the payload that are in the messages. Raises PromptError for a name without a
    value.
    """
    fields = {} if values.keys() >= prompt.names else input_texts(payload)
    used = {name for name in prompt.inputs if name not in values}
    if "task" in prompt.request_names:
        used |= {"text"} if _words(payload) else payload.keys()
    return prompt.render_from({**fields, **values}), tuple(sorted(used))


def question_below(
    request: str, payload: Mapping[str, Any], used: Collection[str], *, without: str | None = None
) -> str:
    """The request of a prompt, then the fields of a payload that the prompt does not use."""
    rest = _parts(payload, without={without, *used})
    parts = [request, *rest] if request.strip() else rest
    return "\n\n".join(parts) or (_ALL_IN_PROMPT if payload.keys() & used else _summary(payload))


def render_question(agent: Agent, task: Task) -> str:
    """The words of a task, then each other field of its payload under its name: text as it is, else as JSON.

    Fields over the limits are cut, and say so. `tags` are left out where they choose the agent's model, and
    `files`, which are parts of the message.
    """
    return question_below("", task.payload, (), without=unsent_field(agent))


def unsent_field(agent: type[Agent] | Agent) -> str | None:
    """The field of payloads that is no part of a request: `tags`, where they choose the agent's model."""
    return "tags" if agent.task_tags else None


def render_request(payload: Mapping[str, Any]) -> str:
    """The words of a payload, then each other field under its name, as `render_question` writes them."""
    return question_below("", payload, ())


def _parts(payload: Mapping[str, Any], *, without: Collection[str | None]) -> list[str]:
    words = "" if "text" in without else _words(payload)
    parts = [words] if words else []
    room = _MAX_QUESTION_CHARS
    for name, value in _without_files(payload).items():
        if name in without or (name == "text" and isinstance(value, str)):
            continue
        text = _as_text(value)
        excerpt = cut(text, min(_MAX_FIELD_CHARS, room)) if room else "[left out: the payload is too long]"
        room = max(0, room - len(text))
        parts.append(f"{name}:\n{excerpt}")
    return parts


def _words(payload: Mapping[str, Any]) -> str:
    words = payload.get("text")
    return words if isinstance(words, str) and words.strip() else ""


def input_texts(payload: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a payload as texts for the inputs of a prompt: text as it is, else JSON, cut alike."""
    texts = {name: _as_text(value) for name, value in _without_files(payload).items() if value is not None}
    return {name: text if name == "text" else cut(text, _MAX_FIELD_CHARS) for name, text in texts.items()}


def summarize_request(task: Task) -> str:
    """The request of a task in short: its words, or else its payload as JSON."""
    return summary_of_payload(task.payload)


def summary_of_payload(payload: Mapping[str, Any]) -> str:
    """The words of a payload, or else all of it as JSON."""
    return _words(payload) or _summary(payload)


def _summary(payload: Mapping[str, Any]) -> str:
    return json.dumps(_without_files(payload), ensure_ascii=False)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _without_files(payload: Mapping[str, Any]) -> dict[str, Any]:
    if "files" not in payload or not payload_files(payload):
        return dict(payload)
    return {name: value for name, value in payload.items() if name != "files"}
