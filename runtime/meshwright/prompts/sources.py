"""Prompt sources: where the prompts of agents come from. The prompts folder is one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meshwright.core.errors import PromptError
from meshwright.prompts.prompt import Prompt

_logger = logging.getLogger("meshwright.prompts")


class PromptContext(NamedTuple):
    """The run that needs a prompt, so that a source can choose a version for it."""

    tenant_id: str = "default"
    agent_id: str | None = None
    task_id: str | None = None
    thread_id: str | None = None


NO_RUN = PromptContext()
"""The context of a prompt that is read for no run, such as by a check."""


class PromptSource(Protocol):
    """Knows prompts by name. Its methods are called on the event loop, and must not block."""

    def resolve(self, name: str, context: PromptContext = NO_RUN) -> Prompt | None:
        """Returns the prompt of that name for a run, None for a name that this source does not know.

        Called once for each attempt of a task, whose journal keeps the rendered text. An error fails the
        attempt.
        """
        ...

    def names(self) -> list[str]:
        """Returns the names that it knows."""
        ...

    def reload(self) -> list[str]:
        """Reads again what has changed outside the process, and returns the names of what it read.

        Called every `prompts.reload_seconds`, and on SIGHUP.
        """
        ...


class PromptSources:
    """The prompts of a mesh: its sources are asked in order, and the first that knows a name decides."""

    def __init__(self, sources: Sequence[PromptSource]) -> None:
        self._sources = tuple(sources)

    def resolve(self, name: str, context: PromptContext = NO_RUN) -> Prompt:
        """Returns the prompt of that name. Raises PromptError where no source has one."""
        for source in self._sources:
            if (prompt := source.resolve(name, context)) is not None:
                return prompt
        raise PromptError(f"No prompt is named {name!r}", remedy="Write it", field="prompt")

    def names(self) -> list[str]:
        """Returns the names of all prompts, sorted."""
        return sorted({name for source in self._sources for name in source.names()})

    def reload(self) -> list[str]:
        """Has each source read again what has changed; one that fails does not keep the others from it."""
        changed: list[str] = []
        for source in self._sources:
            try:
                changed += source.reload()
            except Exception:  # other code's mistake: its earlier prompts stay in use
                _logger.exception("Prompts of %s cannot be reloaded", type(source).__name__)
        return changed
