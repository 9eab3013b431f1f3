"""How a running mesh is found: `mesh.json` in its data folder says where it listens."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshwright.cli.admin_token import admin_token
from meshwright.sql.folder import read_private, write_private

if TYPE_CHECKING:
    from meshwright.settings import Settings

FILE_NAME = "mesh.json"


@contextmanager
def announced(folder: Path, url: str) -> Iterator[None]:
    """Say where this process listens for as long as the context lasts."""
    path = folder / FILE_NAME
    write_private(path, json.dumps({"url": url, "pid": os.getpid()}))
    try:
        yield
    finally:
        if _read(path).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def announced_url(folder: Path) -> str | None:
    """Where the mesh of a data folder said it listens; it may be gone without having removed that."""
    url = _read(folder / FILE_NAME).get("url")
    return url if isinstance(url, str) and _is_here(url) else None


def announced_token(settings: Settings) -> str | None:
    """The admin token for the mesh that a data folder announces, or None.

    None too where the process that announced it has gone: another user's program may listen there now.
    """
    pid = _read(settings.data_dir / FILE_NAME).get("pid")
    return admin_token(settings) if isinstance(pid, int) and _lives(pid) else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):  # gone, or another user's
        return False
    return pid > 0


def _is_here(url: str) -> bool:
    """Whether an address is one of this machine's: a folder from elsewhere must not name a mesh elsewhere."""
    try:
        host = urlsplit(url).hostname
        family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((host or "", 0))
    except (OSError, ValueError):
        return False
    return bool(host)


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(read_private(path))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
