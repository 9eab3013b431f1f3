"""What is wrong with the file behind a model, and with the tags that agents and prompts choose."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from meshwright.agent import Agent
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Task
from meshwright.models.config import LiteLLMConfig
from meshwright.models.port import Adapter
from meshwright.models.routing import CallerTags, tags_nobody_answers
from meshwright.prompts import Prompts

_SAMPLES = ("What is this?", "Compare these, weigh the trade-offs and recommend one: why? " * 20)
"""A simple request and a complex one: agents choose tags by such."""


def start_warnings(model: Adapter, prompts: Prompts, agents: Sequence[type[Agent]]) -> tuple[str, ...]:
    """What a mesh should say at its start of the file behind its model, and of its fleet's tags."""
    if model.config is None:
        return ()
    return tuple(str(warning) for warning in warnings_of(model.config, prompts, agents))


def warnings_of(config: LiteLLMConfig, prompts: Prompts, agents: Sequence[type[Agent]]) -> list[ConfigError]:
    """What a file hardly means, and those prompts and agents whose tags no deployment has."""
    callers: dict[str, CallerTags] = {}
    groups: dict[str, str] = {}
    for name in prompts.names():
        prompt = prompts.get(name)
        groups[name] = prompt.model
        callers[f"prompt {name}"] = (prompt.model, prompt.tags)
    for agent in agents:
        for tags in _tags_by_agent(agent):
            callers[f"agent {agent.agent_id} [{', '.join(tags)}]"] = (
                groups.get(agent.prompt, "default"),
                tags,
            )
    return [*config.warnings, *tags_nobody_answers(config, callers)]


def _tags_by_agent(agent: type[Agent]) -> list[list[str]]:
    """The tags that an agent chooses for a simple request and a complex one, and those it allows."""
    allowed = [(tag,) for tag in sorted(agent.task_tags)]
    chosen: list[tuple[str, ...]] = []
    with suppress(Exception):  # the author's code, on tasks that it was not written for
        chosen = [tuple(agent().tags(_sample_task(text)) or ()) for text in _SAMPLES]
    return [list(tags) for tags in dict.fromkeys([*chosen, *allowed]) if tags]


def _sample_task(text: str) -> Task:
    now = datetime.now(UTC)
    ends = now + timedelta(minutes=1)
    return Task(
        task_id="sample", payload={"text": text}, deadline_at=ends, thread_id="sample", created_at=now
    )
