"""How a running mesh is found: `mesh.json` in its data folder says where it listens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "mesh.json"


@contextmanager
def announced(folder: Path, url: str) -> Iterator[None]:
    """Say where this process listens for as long as the context lasts."""
    path = folder / FILE_NAME
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    draft.replace(path)  # whole or not at all: others read it at any time
    try:
        yield
    finally:
        if _read(path).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def announced_url(folder: Path) -> str | None:
    """Where the mesh of a data folder said it listens; it may be gone without having removed that."""
    url = _read(folder / FILE_NAME).get("url")
    return url if isinstance(url, str) else None


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
