"""Secrets that the tools of a run meet: masked where the model would read them, put back where they belong.

All that a tool says passes `Masks.clean` before the journal, an event or a span has it: results, errors,
previews, and arguments where they are shown.
A secret in a file of the workspace is shown as `[secret:1]`. In arguments of later calls of tools of the
workspace it is put back, so that a file which is edited keeps it. The journal has masks alone: a
run that is resumed reads the file again for what one stands for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import MeshError, ToolFailed
from meshwright.core.redaction import MASK, REDACTED, Mask, redact, redact_data
from meshwright.core.settings.forms import refers, resolve

_MIN_CHARS = 4  # of a secret of the mesh that is hidden wherever it stands


class _MaskedResult(NamedTuple):
    """A result that has masks, and how to have it again."""

    value: Any
    reread: Callable[[], Awaitable[Any]]


def redacted_arguments(arguments: str, max_chars: int) -> str:
    """The beginning of the arguments of a call, for events and notes, without what looks like a secret."""
    return redact(arguments)[:max_chars]


class Masks:
    """The masks of one run. `earlier` are the records that earlier claims left in its journal."""

    def __init__(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        results = (record.get("result") for record in earlier)
        self._last = max((number for result in results for number in _mask_numbers(result)), default=0)
        self._numbers: dict[str, int] = {}
        self._values: dict[int, str] = {}
        self._sources: dict[int, _MaskedResult] = {}
        self._mesh_secrets: set[str] = set()

    def mask(self, secret: str) -> str:
        """The text in place of a secret: the same for the same secret."""
        if secret not in self._numbers:
            self._last += 1
            self._numbers[secret], self._values[self._last] = self._last, secret
        return f"[secret:{self._numbers[secret]}]"

    def give(self, name: str) -> str:
        """A secret of the mesh: of a variable of the environment, or a reference like `file:/run/token`.

        Raises ToolFailed where there is none.
        """
        try:
            secret = resolve(name if refers(name) else f"env:{name}")
        except ValueError as error:
            remedy = "Set it where the mesh runs, or name another one"
            raise ToolFailed(f"The secret {error}", remedy=remedy) from None
        if len(secret) >= _MIN_CHARS:
            self._mesh_secrets.add(secret)
        return secret

    def clean(self, tool: Tool, data: Any) -> Any:
        """The plain data of a tool without secrets: masked if of the workspace, else redacted.

        In text of the workspace a mask stands for what looks like one, too, so that it stays what it is.
        """
        if tool.origin == "workspace":
            data = redact_data(self._without_masks(data), self.mask)
        else:
            data = redact_data(data)
        return self.hide(data) if self._mesh_secrets else data

    def clean_error(self, error: MeshError, tool: Tool | None = None) -> None:
        """Take the secrets out of an error: of a tool, or in our own words those that the run was given."""
        clean = self.hide if tool is None else partial(self.clean, tool)
        error.message, error.remedy = clean(error.message), clean(error.remedy)
        error.args = (error.message,)

    def _without_masks(self, data: Any) -> Any:
        match data:
            case str():
                return MASK.sub(lambda match: self.mask(match[0]), data)
            case list():
                return [self._without_masks(item) for item in data]
            case dict():
                return {name: self._without_masks(value) for name, value in data.items()}
            case _:
                return data

    def hide(self, data: Any, mark: Mask = lambda _: REDACTED) -> Any:
        """Plain data without the secrets that the run was given."""
        match data:
            case str():
                for secret in sorted(self._mesh_secrets, key=len, reverse=True):  # one may begin with another
                    data = data.replace(secret, mark(secret))
                return data
            case list():
                return [self.hide(item, mark) for item in data]
            case dict():
                return {self.hide(name, mark): self.hide(value, mark) for name, value in data.items()}
            case _:
                return data

    def note(self, tool: Tool, result: dict[str, Any]) -> None:
        """Note in a result for the journal which masks it has."""
        if tool.origin == "workspace":
            text = _render_json([result["value"], result["error"]])
            if numbers := sorted({int(number) for number in MASK.findall(text)}):
                result["masks"] = numbers

    def learn(self, tool: Tool, result: Any, reread: Callable[[], Awaitable[Any]]) -> None:
        """Take a result of the journal, which `reread` can have again where its tool changes nothing."""
        if tool.idempotent and tool.effect == "read" and tool.origin == "workspace":
            for number in _mask_numbers(result):
                self._sources.setdefault(number, _MaskedResult(result["value"], reread))

    async def put_back(self, tool: Tool, arguments: str) -> str:
        """The arguments of a call with what their masks stand for, where a tool of the workspace takes them.

        Raises ToolFailed for one that is not known any more, and where it could leave the workspace: in a
        program that has the network, and in what a person approves, who does not see it.
        """
        if tool.origin != "workspace":
            return arguments
        numbers = sorted({int(number) for number in MASK.findall(arguments)})
        for number in (number for number in numbers if number <= self._last):
            if tool.network or tool.needs_approval:
                problem = f"{tool.name} was not run: it gets no secret, and [secret:{number}] stands for one"
                raise ToolFailed(problem, remedy="Leave it out")
            if number not in self._values:
                await self._read_again(number)
        return MASK.sub(self._escaped, arguments)

    async def meanings(self, tool: Tool, arguments: str) -> dict[str, str]:
        """Says of each mask in arguments that is put back what it stands for, for a person who approves them.

        The secret itself is not shown: it is of a file that only tools of the workspace may use.
        """
        if tool.origin != "workspace":
            return {}
        numbers = {int(number) for number in MASK.findall(arguments)}
        existing = sorted(number for number in numbers if number <= self._last)
        return {f"[secret:{number}]": await self._meaning(number) for number in existing}

    async def _meaning(self, number: int) -> str:
        try:
            if number not in self._values:
                await self._read_again(number)
        except ToolFailed:
            return "a secret that has changed: the call would fail"
        size = len(self._values[number])
        return f"a secret of {size:,} characters of the workspace, which only the tool gets"

    def _escaped(self, match: re.Match[str]) -> str:
        secret = self._values.get(int(match[1]))
        return match[0] if secret is None else json.dumps(secret, ensure_ascii=False)[1:-1]

    async def _read_again(self, number: int) -> None:
        if (source := self._sources.get(number)) is not None:
            before, now = _render_json(source.value), _render_json(await source.reread())
            if MASK.sub("", before) == MASK.sub("", now):
                for old, new in zip(MASK.findall(before), MASK.findall(now), strict=True):
                    self._values[int(old)] = self._values[int(new)]
        if number not in self._values:
            raise ToolFailed(
                f"[secret:{number}] cannot be put back: what it stood in is not the same any more",
                remedy="Read it again, and write the mask that it has then",
            )


def _mask_numbers(result: Any) -> list[int]:
    return result.get("masks", []) if isinstance(result, dict) else []


def _render_json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)
