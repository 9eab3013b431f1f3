"""Measures an item by metrics: those of `metrics`, a pattern, and functions of the project."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError, InvalidInput, ToolFailed
from meshwright.sandbox import process
from meshwright.services.evaluations import metrics
from meshwright.services.evaluations.records import ItemTexts

Function = Callable[[str, Mapping[str, Any]], Any]
_OF_TEXT: Mapping[str, Callable[[str], float | None]] = {
    "length": metrics.length,
    "readability": metrics.readability,
}
_OF_EXPECTED: Mapping[str, Callable[[str, str], float]] = {
    "exact": metrics.exact,
    "contains": metrics.contains,
}
REGEX, FACTUALITY, SENTIMENT = "regex", "factuality", "sentiment"
BUILT_IN = (*_OF_TEXT, SENTIMENT, FACTUALITY, *_OF_EXPECTED, REGEX)
"""The metrics that every mesh has."""
_SEARCH = "import json, re, sys; found = json.load(sys.stdin); print(int(bool(re.search(*found))))"
_SECONDS = 5.0


class Metrics:
    """The metrics of a mesh by their names: those that every mesh has, and those of its settings."""

    def __init__(self, functions: Mapping[str, str], project: Path) -> None:
        self._project = project
        self._named = functions
        self._functions: dict[str, Function] = {}

    def check(self, names: Sequence[str]) -> None:
        """Raises InvalidInput for a metric that there is not, or whose package is not installed.

        Raises ConfigError for one of the settings that cannot be imported.
        """
        known_names = (*BUILT_IN, *self._named)
        for name in names:
            if name not in known_names:
                remedy = f"Known are {', '.join(known_names)}; [evaluations.metrics] adds your own"
                raise InvalidInput(f"There is no metric {name!r}", remedy=remedy, field="metrics")
            if name in self._named:
                self._function(name)
            elif name == SENTIMENT:
                metrics.sentence_sentiment()

    async def measure(self, names: Sequence[str], texts: ItemTexts) -> dict[str, float | None]:
        """The figures of an answer; None where an item has not what a metric takes, or the metric failed."""
        return {name: await self._measure(name, texts) for name in names}

    async def _measure(self, name: str, texts: ItemTexts) -> float | None:
        text, expected = texts.output or "", texts.expected
        if name in self._named:  # a name of the settings counts before ours
            return await self._call(name, texts)
        if name in _OF_TEXT:
            return _OF_TEXT[name](text)
        if name == SENTIMENT:
            return await asyncio.to_thread(metrics.sentiment, text)
        if name == FACTUALITY:
            context = texts.context
            return None if context is None else await asyncio.to_thread(metrics.factuality, text, context)
        if expected is None:
            return None
        return await _matches(expected, text) if name == REGEX else _OF_EXPECTED[name](text, expected)

    async def _call(self, name: str, texts: ItemTexts) -> float | None:
        item = texts.model_dump(include={"input", "context", "expected", "other"})
        try:
            async with asyncio.timeout(_SECONDS):
                return float(await asyncio.to_thread(self._function(name), texts.output or "", item))
        except Exception:  # noqa: BLE001 the project's own code: whatever it raises, it has no figure
            return None

    def _function(self, name: str) -> Function:
        if name not in self._functions:
            module, _, attribute = self._named[name].partition(":")
            if str(self._project) not in sys.path:
                sys.path.append(str(self._project))  # behind all others, as for agents
            try:
                function = getattr(import_module(module), attribute)
            except Exception as error:
                problem = f"[evaluations.metrics] {name}: {self._named[name]} cannot be imported: {error}"
                raise ConfigError(problem, remedy="Correct it, or the module", field="metrics") from error
            self._functions[name] = function
        return self._functions[name]


async def _matches(pattern: str, text: str) -> float | None:
    """1 where a pattern is found in a text, else 0; None for one that is wrong, or takes too long.

    A pattern of a caller may take for ever, and holds Python's lock meanwhile: it gets a process of its own.
    """
    command = (sys.executable, "-I", "-S", "-c", _SEARCH)
    query = json.dumps([pattern, text])
    try:
        result = await process.run(
            command,
            folder=Path("/"),
            environment={},
            timeout_seconds=_SECONDS,
            max_output_bytes=100,
            input_text=query,
        )
    except ToolFailed:
        return None
    return float(result.output) if result.status == 0 else None
