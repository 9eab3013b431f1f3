"""The two pipes between the mesh and the program of a coding agent, and its last words."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from meshwright.agents.sandbox.port import SandboxResult
from meshwright.core.redaction import redact
from meshwright.parts.coding.acp import MAX_LINE_BYTES

_MAX_WORDS = 600  # characters


def last_words(finished: SandboxResult) -> str:
    """How a program ended and what it wrote last, in brackets."""
    words = redact(" ".join(finished.output[-_MAX_WORDS:].split()))
    reason = f"the limit of {finished.ended_by}" if finished.ended_by else f"status {finished.status}"
    return f" (its program ended by {reason}{f': {words}' if words else ''})"


class ProgramPipes(NamedTuple):
    """The mesh's ends as streams, and the program's own `stdin` and `stdout`, to be closed once it runs."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stdin: socket.socket
    stdout: socket.socket
    unused: asyncio.StreamWriter
    """The other direction of the program's output."""

    @classmethod
    async def open(cls) -> ProgramPipes:
        """Make them."""
        to_program, stdin = socket.socketpair()
        from_program, stdout = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=to_program)
        reader, unused = await asyncio.open_connection(sock=from_program, limit=MAX_LINE_BYTES)
        return cls(reader, writer, stdin, stdout, unused)

    def close_program(self) -> None:
        """Close the ends of the program, which has its own by now."""
        self.stdin.close()
        self.stdout.close()

    def abort(self) -> None:
        """End both at once."""
        self.writer.transport.abort()
        self.unused.transport.abort()
