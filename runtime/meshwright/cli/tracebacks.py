"""Where tracebacks go: not to the person, but not lost either."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

FILE_NAME = "last-error.txt"


def keep_traceback(error: Exception, folder: Path) -> str:
    """Write a traceback to the data folder, or to stderr where MESH_DEBUG is set; returns where it is."""
    if os.environ.get("MESH_DEBUG"):
        traceback.print_exception(error)
        return "traceback above"
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return "MESH_DEBUG=1 shows the traceback"
    return f"traceback: {path}"
