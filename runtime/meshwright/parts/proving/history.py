"""The last run of `mesh prove` on each store and broker, kept in the data folder for `mesh doctor`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import meshwright
from meshwright.core.display import age
from meshwright.core.part import Caution

_FILE_NAME = "proved.json"


def store_name(database: str | None) -> str:
    """Return the name under which a store is kept: no user and no password of its address."""
    if database is None:
        return "sqlite"
    address = urlsplit(database)
    hosts = address.netloc.rpartition("@")[2].split(",")
    return ",".join(host if re.search(r":\d+$", host) else f"{host}:5432" for host in hosts) + address.path


def keep_result(folder: Path, proved: Iterable[str], report: Mapping[str, Any], path: Path) -> None:
    """Note for each system by name how a run on it ended, and the file of its report. Raises OSError."""
    kept = {name: report[name] for name in ("held", "time", "meshwright")}
    results = _read(folder) | {name: {**kept, "file": str(path.absolute())} for name in proved}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f"{_FILE_NAME}.draft"
    draft.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    draft.rename(folder / _FILE_NAME)


def describe_last_run(folder: Path, name: str, kind: str = "store", command: str = "mesh prove") -> str:
    """Return a sentence on the last run on a system: a Caution where a promise broke or this is another
    version."""
    result = _read(folder).get(name)
    if not isinstance(result, dict):
        return f"this {kind} is not proved here: {command}"
    when = f"{age(str(result.get('time')))} ago"
    if not result.get("held"):
        return Caution(f"A promise broke here {when}: {result.get('file')}")
    if (version := result.get("meshwright")) != meshwright.__version__:
        return Caution(f"Proved here {when} with version {version}; prove this one: {command}")
    return f"this {kind} was proved here {when}: all held"


def _read(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        results = json.loads((folder / _FILE_NAME).read_text("utf-8"))
        if isinstance(results, dict):
            return results
    return {}
