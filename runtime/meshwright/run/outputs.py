"""Long results of tools: the model gets head and tail of one, and the whole by the tool `output`."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_json

from meshwright.core.errors import InvalidInput
from meshwright.tools.limited import head_and_tail
from meshwright.tools.tool import Tool, ToolContext

_MAX_BYTES = 1_000_000  # of one, and at most a quarter of a record
_RECORD_SHARE = 4
_MAX_KEPT_CHARS = 8_000_000  # of a run
_PAGE_CHARS = 16_000
NAME = "output"


class Outputs:
    """The long results of one run, by id: the journal has each once, whole, in the step of its call."""

    def __init__(self, max_record_bytes: int) -> None:
        self._max_bytes = min(_MAX_BYTES, max_record_bytes // _RECORD_SHARE)
        self._texts: dict[str, str] = {}
        self.tool: Tool = _OutputTool(self._texts)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def keep(self, tool: Tool, result: dict[str, Any], step: int, *, is_offered: bool) -> None:
        """Keep a result whole if it is too long for the model; one too many is cut for good.

        So is each where the tool for them is not offered.
        """
        value = result["value"]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if len(text) <= tool.max_chars:
            return
        if not is_offered or sum(map(len, self._texts.values())) >= _MAX_KEPT_CHARS:
            result["value"] = head_and_tail(text, tool.max_chars)
            return
        result |= {"value": self._fitting(text), "output": f"o{step}", "shown": tool.max_chars}

    def learn(self, result: Any) -> None:
        """Take a result of the journal."""
        if isinstance(result, dict) and "output" in result:
            self._texts[result["output"]] = result["value"]

    def _fitting(self, text: str) -> str:
        """The text, or its head and tail where a record cannot hold it."""
        size = len(to_json(text))
        while size > self._max_bytes:
            text = head_and_tail(text, int(len(text) * self._max_bytes / size * 0.9))
            size = len(to_json(text))
        return text


class _OutputTool(Tool):
    """Shows a part of a long result."""

    name = NAME
    description = "Show a part of a long result of a tool, of which you got the head and the tail."
    parameters = {  # noqa: RUF012 that is never changed
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "the id that the shortened result names, like o7"},
            "start": {"type": "integer", "minimum": 0, "default": 0, "description": "the first character"},
        },
        "required": ["id"],
        "additionalProperties": False,
    }
    idempotent = True
    timeout = 60.0
    effect = "read"

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    async def call(self, arguments: str, context: ToolContext) -> str:
        """Show a page of it."""
        values = self.validated(arguments)
        text, start = self._texts.get(values["id"]), values["start"]
        if text is None:
            ids = ", ".join(self._texts) or "none"
            raise InvalidInput(f"There is no output {values['id']!r}; there are {ids}", field="id")
        if start >= len(text):
            raise InvalidInput(f"{values['id']} has {len(text):,} characters", field="start")
        end = min(start + _PAGE_CHARS, len(text))
        rest = f"; {NAME}({values['id']!r}, {end}) goes on" if end < len(text) else ""
        return f"{text[start:end]}\n[characters {start:,} to {end:,} of {len(text):,}{rest}]"
