"""What the mesh logs, for a person at a terminal: a line each, its traceback kept in a file."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from meshwright.cli.tracebacks import keep_traceback

MAX_QUOTED = 500  # characters of a message: it may quote what a client sent


class OneLine(logging.Handler):
    """Writes warnings to stderr, one line each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, redacted, and keep the traceback that came with it."""
        from meshwright.redaction import redact  # most commands do without

        text = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            where = keep_traceback(error, self._folder)
            text = f"{text[:MAX_QUOTED]}: {type(error).__name__}: {str(error)[:MAX_QUOTED]} ({where})"
        click.echo(f"mesh: {record.levelname.lower()}: {redact(text[: 4 * MAX_QUOTED])}", err=True)


def log_to_stderr(folder: Path) -> None:
    """Show every warning of this process."""
    logging.basicConfig(handlers=[OneLine(folder)], level=logging.WARNING, force=True)
