"""Runs a program within limits of time and output. It is no box: the program may do what its user may."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from meshwright.core.errors import ToolFailed

_CHUNK_BYTES = 65_536
_MAX_ERROR_BYTES = 4_096


class ProgramResult(NamedTuple):
    """How a program ended, and what it wrote; `is_cut` if that is not all of it."""

    status: int
    output: str
    errors: str
    is_cut: bool

    @property
    def is_killed(self) -> bool:
        """Whether it was killed since it had written more than the limit."""
        return self.is_cut and self.status == -signal.SIGKILL


async def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    max_output_bytes: int,
    input_text: str = "",
) -> ProgramResult:
    """Run a program in a folder, with that environment and `input_text` on stdin alone, and wait for its end.

    It is killed, with what it started, once it has written more than the limit, when its time is over
    (ToolFailed), and when the caller is cancelled. Raises ToolFailed too where it cannot be started.
    """
    try:
        with _stdin(input_text) as stdin:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env=dict(environment),
                stdin=stdin,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
    except OSError as error:
        raise ToolFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _finish(process, max_output_bytes)
    except BaseException as error:
        _kill(process)
        # Empties the pipes: while they hold something, the process is not over.
        await process.communicate()
        if isinstance(error, TimeoutError):
            raise ToolFailed(f"{command[0]} took longer than {timeout_seconds:g} seconds") from error
        raise


@contextmanager
def _stdin(text: str) -> Generator[IO[bytes] | int]:
    """A file: a pipe of uvloop is a socket, which nft cannot open as /dev/stdin."""
    if not text:
        yield DEVNULL
        return
    with TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


async def _finish(process: Process, max_output_bytes: int) -> ProgramResult:
    assert process.stdout and process.stderr  # pipes, as asked for
    output, errors = await asyncio.gather(
        _read(process.stdout, max_output_bytes, lambda: _kill(process)),
        _read(process.stderr, _MAX_ERROR_BYTES, lambda: None),  # warnings beyond that are dropped
    )
    return ProgramResult(
        await process.wait(),
        output[:max_output_bytes].decode(errors="replace"),
        errors[:_MAX_ERROR_BYTES].decode(errors="replace"),
        len(output) > max_output_bytes,
    )


async def _read(stream: StreamReader, max_bytes: int, on_more: Callable[[], None]) -> bytes:
    data = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        if len(data) <= max_bytes:
            data += chunk
            if len(data) > max_bytes:
                on_more()
    return bytes(data)


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)
