"""What a program of the stack says: in a file of bounded size, its last lines at hand."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from meshwright.storage.folder import open_private

MAX_BYTES = 4 * 1024 * 1024
MAX_LINE = 16_384  # characters; a longer line goes on in the next
TAIL_LINES = 50


class Log:
    """The output of a program, over all its runs.

    The file has at most `max_bytes`; when it is full it is renamed to `NAME.log.1`, which is replaced. Every
    whole line is given to `on_line`, with the name of its stream: `stdout` or `stderr`.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        on_line: Callable[[str, str], None] = lambda stream, line: None,
    ) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._max_bytes = max_bytes
        self._on_line = on_line
        self._rests: dict[str, str] = {}
        self._file = self._open()

    def take(self, stream: str, output: bytes) -> None:
        """Keep what the program has written to a stream."""
        with suppress(OSError):  # a full disk must not stop the program that wanted to say something
            self._write(output)
        *lines, rest = (self._rests.get(stream, "") + output.decode(errors="replace")).split("\n")
        if len(rest) > MAX_LINE:
            lines.append(rest)
            rest = ""
        self._rests[stream] = rest
        for line in lines:
            self._say(stream, line)

    def end(self, stream: str) -> None:
        """The program has closed a stream: its last line is whole."""
        self._say(stream, self._rests.pop(stream, ""))

    def begin(self) -> None:
        """Another run begins: what was said before is none of its tail."""
        self.tail.clear()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _say(self, stream: str, line: str) -> None:
        if text := line.rstrip():
            self.tail.append(text)
            self._on_line(stream, text)

    def _open(self) -> FileIO:
        return FileIO(open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")

    def _write(self, output: bytes) -> None:
        if self._file.tell() + len(output) > self._max_bytes:
            self._file.close()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._file = self._open()
        self._file.write(output[-self._max_bytes :])
