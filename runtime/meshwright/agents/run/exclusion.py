"""Calls of tools that exclude one another, made by the model or by the code of the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshwright.engine.work.paths import OpenStep
from meshwright.engine.work.protocol import TOOL


class ToolExclusion:
    """Lets the calls of one run work side by side, those of exclusive tools alone, in order of arrival."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Future[None], bool] = {}
        """Those that wait or work, until they have ended, and whether each is exclusive."""

    @asynccontextmanager
    async def turn(self, inside: OpenStep | None, *, exclusive: bool) -> AsyncIterator[None]:
        """A block in which a call works; `inside` is the step that makes it.

        A call that a tool makes belongs to that tool's own turn, and waits for none.
        """
        if inside is not None and any(
            step.key.kind.startswith(TOOL) for step in (inside, *inside.scope.steps_around())
        ):
            yield
            return
        before = [ended for ended, is_alone in self._calls.items() if exclusive or is_alone]
        own = asyncio.get_running_loop().create_future()
        self._calls[own] = exclusive
        try:
            if before:
                await asyncio.wait(before)
            yield
        finally:
            del self._calls[own]
            own.set_result(None)
