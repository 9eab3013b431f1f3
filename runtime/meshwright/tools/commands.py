"""Running a program of this machine for a tool: by argument list, and within limits of time and output."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from meshwright.errors import ToolFailed

CHUNK_BYTES = 65_536
MAX_ERROR_BYTES = 4_096


class Finished(NamedTuple):
    """How a program ended, and what it wrote; `is_cut` if that is not all of it."""

    status: int
    output: str
    errors: str
    is_cut: bool

    @property
    def is_killed(self) -> bool:
        """Whether it was stopped because it wrote too much, rather than ended by itself."""
        return self.is_cut and self.status == -signal.SIGKILL


async def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    max_output_bytes: int,
) -> Finished:
    """Run a program in a folder, with that environment alone and no input, and wait for its end.

    It is killed, with what it started, once it has written more than the limit, when its time is over
    (ToolFailed), and when the caller is cancelled. Raises ToolFailed too where it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=dict(environment),
            stdin=DEVNULL,
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
        # Reads what is left in the pipes: while they hold something, the process is not over.
        await process.communicate()
        if isinstance(error, TimeoutError):
            raise ToolFailed(f"{command[0]} took longer than {timeout_seconds:g} seconds") from error
        raise


async def _finish(process: Process, max_output_bytes: int) -> Finished:
    assert process.stdout and process.stderr  # pipes, as asked for
    output, errors = await asyncio.gather(
        _read(process.stdout, max_output_bytes, process), _read(process.stderr, MAX_ERROR_BYTES, process)
    )
    return Finished(
        await process.wait(),
        output[:max_output_bytes].decode(errors="replace"),
        errors[:MAX_ERROR_BYTES].decode(errors="replace"),
        len(output) > max_output_bytes,
    )


async def _read(stream: StreamReader, max_bytes: int, process: Process) -> bytes:
    data = bytearray()
    while chunk := await stream.read(CHUNK_BYTES):
        if len(data) <= max_bytes:
            data += chunk
            if len(data) > max_bytes:
                _kill(process)
    return bytes(data)


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)
