"""The two pipes between the mesh and the program of a coding agent."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from meshwright.parts.coding.acp import MAX_LINE_BYTES


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
