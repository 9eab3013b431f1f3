"""What the mesh logs, for a person at a terminal: a line each, its traceback kept in a file."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

import click

from meshwright.errors import StoreFailed
from meshwright.sql.folder import make_private, write_private

FILE_NAME = "last-error.txt"
MAX_QUOTED = 500  # characters of a message: it may quote what a client sent


def keep_traceback(error: BaseException, folder: Path) -> str:
    """Write a traceback to the data folder, or to stderr if MESH_DEBUG is set; returns where it is.

    What looks like a secret is redacted.
    """
    return keep_text("".join(traceback.format_exception(error)), folder)


def keep_text(text: str, folder: Path) -> str:
    """Do the same with a traceback that is a text already."""
    from meshwright.redaction import redact  # most commands do without

    text = redact(text)
    if os.environ.get("MESH_DEBUG"):
        sys.stderr.write(text)
        return "traceback above"
    try:
        write_private(make_private(folder) / FILE_NAME, text)
    except (OSError, StoreFailed):
        return "MESH_DEBUG=1 shows the traceback"
    return f"traceback: {folder / FILE_NAME}"


def log_to_stderr(folder: Path) -> None:
    """Show every warning of this process, one line each."""
    logging.basicConfig(handlers=[_OneLine(folder)], level=logging.WARNING, force=True)


class _OneLine(logging.Handler):
    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, redacted, and keep the traceback that came with it."""
        from meshwright.redaction import redact

        text = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            where = keep_traceback(error, self._folder)
            text = f"{text[:MAX_QUOTED]}: {type(error).__name__}: {str(error)[:MAX_QUOTED]} ({where})"
        click.echo(f"mesh: {record.levelname.lower()}: {redact(text[: 4 * MAX_QUOTED])}", err=True)
