"""The file of the data folder that holds the last traceback."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path


def keep_traceback(error: BaseException, folder: Path) -> str:
    """Write a traceback to the data folder, or to stderr if MESH_DEBUG is set; returns where it is.

    Secrets are redacted.
    """
    return keep_text("".join(traceback.format_exception(error)), folder)


def keep_text(text: str, folder: Path) -> str:
    """Do the same with a traceback that is a text already."""
    from meshwright.core.errors import StoreFailed
    from meshwright.core.redaction import redact  # most commands do without
    from meshwright.sql.folder import LAST_ERROR, make_private, write_private

    text = redact(text).encode(errors="backslashreplace").decode()  # no file holds half a pair of characters
    if os.environ.get("MESH_DEBUG"):
        sys.stderr.write(text)
        return "traceback above"
    try:
        write_private(make_private(folder) / LAST_ERROR, text)
    except (OSError, StoreFailed):
        return "MESH_DEBUG=1 shows the traceback"
    return f"traceback: {folder / LAST_ERROR}"
