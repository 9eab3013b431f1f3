"""How the events of agents and prompts read, and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from meshwright.core.display import Document, EventWords, short

FACTS: Mapping[str, str] = {"agent.*": "name kind status tasks", "prompt.*": "name digest"}


def code_changed(agent_id: str, tasks: int, once: int) -> str:
    """How many open tasks of an agent began with other code, and how many of those did what counts once."""
    open_tasks = "1 open task" if tasks == 1 else f"{tasks} open tasks"
    steps = f"; {once} with steps that are not idempotent" if once else ""
    return f"{open_tasks} of {agent_id} began with other code{steps}"


def _code_changed(payload: Document, event: Document) -> Sequence[object]:
    return (code_changed(payload.get("agent_id", "?"), payload.get("tasks", 0), payload.get("once", 0)),)


def _registered(payload: Document, event: Document) -> Sequence[object]:
    names = ", ".join(str(capability["name"]) for capability in payload["capabilities"])
    return (names or payload.get("kind"),)


def _prompt_problem(then: str, payload: Document, event: Document) -> Sequence[object]:
    parts = [payload.get("error") or "?", then, payload.get("remedy")]
    return ("; ".join(short(part) for part in parts if part),)


WORDS: Mapping[str, EventWords] = {
    "agent.*": EventWords("", _registered),
    "agent.code_changed": EventWords("code changed", _code_changed),
    "prompt.fallback": EventWords("prompt", partial(_prompt_problem, "a built-in prompt takes its place")),
    "prompt.rejected": EventWords("prompt", partial(_prompt_problem, "the last good prompt stays in use")),
    "prompt.reloaded": EventWords("prompt", lambda said, _: (f"{said.get('path', '?')} was read again",)),
}
