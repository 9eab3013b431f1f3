"""Calls of a tool that lead nowhere: the same call with the same result, again and again."""

from __future__ import annotations

import json

from meshwright.models.port import ToolCall
from meshwright.models.structure import repaired


class Repeats:
    """Counts how often the same call in a row gave the same result; `most` is how often it may."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._last: tuple[str, str, str] | None = None
        self._times = 0

    def times(self, call: ToolCall, content: str) -> int:
        """How often it has been in a row, with this call."""
        return self._times + 1 if self._key(call, content) == self._last else 1

    def add(self, call: ToolCall, content: str) -> bool:
        """Count a call; returns whether no further one may follow."""
        self._times = self.times(call, content)
        self._last = self._key(call, content)
        return self._times >= self.most

    def _key(self, call: ToolCall, content: str) -> tuple[str, str, str]:
        return call.name, _canonical(call.arguments), content


def _canonical(arguments: str) -> str:
    """Arguments that mean the same, written the same."""
    try:
        return json.dumps(json.loads(repaired(arguments or "{}")), sort_keys=True)
    except ValueError:
        return arguments
