"""A tool within the limits of its agent, and texts that are cut at theirs."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.core.encoding import plain
from meshwright.core.errors import MeshError, ToolFailed
from meshwright.core.files import File, TaskFile
from meshwright.core.redaction import redact, redact_data
from meshwright.tools.places import author_place
from meshwright.tools.tool import Tool, ToolContext, ToolResult, ToolWrapper

logger = logging.getLogger("meshwright.tools")
MAX_RESULT_CHARS = 32_000


class LimitedTool(ToolWrapper):
    """A tool within the limits of its agent: time, size, and what of its errors and results is shown.

    What a tool raises on purpose (any MeshError) passes as it is, every other exception becomes ToolFailed,
    and so does a call that takes longer than the tool's own timeout or `timeout_seconds`. The result is plain
    JSON data; one over 32,000 characters is text that says where it was cut. Secrets are redacted. One
    with files in it is a ToolResult.
    """

    def __init__(self, inner: Tool, timeout_seconds: float) -> None:
        super().__init__(inner)
        self.timeout = inner.timeout or timeout_seconds

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call the inner tool within the limits."""
        try:
            files: list[File] = []
            value = _plain(_described(await self._within_time(arguments, context), files))
            return ToolResult(value, tuple(files)) if files else value
        except MeshError as error:
            error.message, error.remedy = redact(error.message), redact(error.remedy)
            error.args = (error.message,)
            raise
        # A tool's body is not ours and may raise anything: its model must see it, and its run go on.
        except Exception as error:
            place = author_place(error)
            logger.error(
                "tool %s failed at %s", self.name, place or "no line of its author's", exc_info=error
            )
            where = f" ({place.short})" if place else ""
            raise ToolFailed(redact(f"{type(error).__name__}: {error}{where}")) from error

    async def _within_time(self, arguments: str, context: ToolContext) -> Any:
        seconds, of_task = self.timeout or math.inf, context.task.timeout
        if of_task is not None and seconds != math.inf:
            seconds = min(seconds, of_task)
        limit = asyncio.timeout(None if seconds == math.inf else seconds)
        try:
            async with limit:
                return await self.inner.call(arguments, context)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ToolFailed(
                f"{self.name} did not end within {seconds:g} seconds and was given up",
                remedy=""
                if self.idempotent
                else "It may still take effect: find out before you call it again",
            ) from error


def cut(text: str, max_chars: int) -> str:
    """A text no longer than it may be, which says so if it was cut."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[cut: the first {max_chars:,} of {len(text):,} characters]"


def _described(result: Any, files: list[File]) -> Any:
    """A result with a description in the place of each file, which goes to `files`."""
    match result:
        case TaskFile():
            return _described(result.file, files)
        case File():
            files.append(result)
            return str(result)
        case list() | tuple() if result and all(isinstance(item, str | File | TaskFile) for item in result):
            described = [_described(item, files) for item in result]
            return "\n".join(described) if files else described
        case dict():
            return {name: _described(value, files) for name, value in result.items()}
        case list() | tuple() if not hasattr(result, "_fields"):
            return [_described(value, files) for value in result]
        case _:
            return result


def _plain(result: Any) -> Any:
    try:
        data = to_json(result, inf_nan_mode="null", fallback=plain)
    except (PydanticSerializationError, ValueError) as error:
        raise ToolFailed(f"its result is not what JSON can hold: {error}") from error
    text = result if isinstance(result, str) else data.decode()
    if len(text) > MAX_RESULT_CHARS:
        return redact(cut(text, MAX_RESULT_CHARS))
    return redact_data(from_json(data))
