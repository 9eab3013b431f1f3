"""Extras: what installs an optional part of Meshwright where it was installed from."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """The command that installs an extra: from the checkout, the archive or the index that this came from."""
    origin: dict[str, Any] = {}
    with suppress(PackageNotFoundError):  # the source without an installation
        origin = json.loads(distribution("meshwright").read_text("direct_url.json") or "{}")
    url = origin.get("url", "")
    if url.startswith("file:") and "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{unquote(urlsplit(url).path)}[{extra}]'"
    return f"pip install 'meshwright[{extra}]{f' @ {url}' if url else ''}'"
