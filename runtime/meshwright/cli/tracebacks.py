"""Where tracebacks go: not to the person, but not lost either."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from meshwright.errors import StoreFailed
from meshwright.sql.folder import make_private, write_private

FILE_NAME = "last-error.txt"


def keep_traceback(error: BaseException, folder: Path) -> str:
    """Write a traceback to the data folder, or to stderr where MESH_DEBUG is set; returns where it is.

    What looks like a secret is redacted.
    """
    return keep_text("".join(traceback.format_exception(error)), folder)


def keep_text(text: str, folder: Path) -> str:
    """Do the same with a traceback that is a text already."""
    from meshwright.redaction import redact

    text = redact(text)
    if os.environ.get("MESH_DEBUG"):
        sys.stderr.write(text)
        return "traceback above"
    path = folder / FILE_NAME
    try:
        write_private(make_private(folder) / FILE_NAME, text)
    except (OSError, StoreFailed):
        return "MESH_DEBUG=1 shows the traceback"
    return f"traceback: {path}"
