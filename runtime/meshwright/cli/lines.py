"""Lines that a person types, read beside a mesh that works."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import click

from meshwright.core.errors import InvalidInput

_CHUNK_BYTES = 65_536


class Lines:
    """The lines of stdin, from a terminal, a pipe or a file; the event loop runs on meanwhile."""

    has_ended = False

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        self._rest = b""

    async def next(self, prompt: str = "") -> str:
        """The next line, without its end; the prompt goes to stderr. Raises EOFError, InvalidInput."""
        click.echo(prompt, nl=False, err=True)
        while b"\n" not in self._rest and not self.has_ended:
            chunk = await self._read()
            self._rest += chunk
            self.has_ended = not chunk
        if not self._rest:
            raise EOFError
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise InvalidInput("That line is not UTF-8") from None

    async def decision(self, text: str) -> Any:
        """The answer for a yes or a no, whose reason is asked for; else JSON. Raises InvalidInput."""
        if text.casefold() in ("y", "yes"):
            return {"approve": True}
        if text.casefold() in ("n", "no"):
            return {"approve": False, "reason": (await self.next("why not? ")).strip()}
        try:
            return json.loads(text)
        except ValueError:
            raise InvalidInput("Type y for yes, or n for no") from None

    async def _read(self) -> bytes:
        loop, is_ready = asyncio.get_running_loop(), asyncio.Event()
        descriptor = sys.stdin.fileno()
        try:
            loop.add_reader(descriptor, is_ready.set)
        except PermissionError:  # of a file, which never lets anybody wait
            return os.read(descriptor, _CHUNK_BYTES)
        try:
            await is_ready.wait()
        finally:
            loop.remove_reader(descriptor)
        return os.read(descriptor, _CHUNK_BYTES)
