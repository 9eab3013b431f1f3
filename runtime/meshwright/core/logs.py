"""Lines of a log: the task that they are about, the levels that are written, and their two forms."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime

OWN = "meshwright"
SERVER = "uvicorn"
MESH_LOGGER = "meshwright.mesh"
"""The logger of what a mesh says of itself: how it starts and ends, and what people have to repair."""
_LEVELS = ("debug", "info", "warning", "error", "critical")
_DEFAULTS = {"": logging.WARNING, MESH_LOGGER: logging.INFO}
_CONTEXT: ContextVar[tuple[str | None, str | None]] = ContextVar("_CONTEXT", default=(None, None))
"""The task that the lines of the log are about, and its traceparent."""


def log_about(task_id: str, traceparent: str | None) -> None:
    """Let the lines that this asyncio task and those it starts log from now on name a task and its trace."""
    _CONTEXT.set((task_id, traceparent))


def parse_levels(text: str) -> dict[str, int]:
    """The levels of loggers, by name, "" being the root, of `LEVEL` or `LOGGER=LEVEL`, separated by commas.

    A level without a name is for the mesh and its HTTP server. Libraries stay at `warning`, since their
    lines may hold requests and keys: each has to be named. Raises ValueError.
    """
    levels = dict(_DEFAULTS)
    by_logger: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        logger, separator, word = map(str.strip, part.rpartition("="))
        if word.lower() not in _LEVELS or (separator and not logger):
            raise ValueError(f"expected {', '.join(_LEVELS)} or LOGGER=LEVEL")
        level = logging.getLevelNamesMapping()[word.upper()]
        if logger:
            by_logger[logger] = level
        else:
            levels = {"": max(level, logging.WARNING), OWN: level, MESH_LOGGER: level, SERVER: level}
    return levels | by_logger


def text_line(record: logging.LogRecord, message: str, more: Mapping[str, str]) -> str:
    """A line for people: time with its zone, level, logger, message, then the task and its trace."""
    task_id, trace_id = _about()
    about = {"task": task_id, "trace": trace_id, **more}
    fields = " ".join(f"{name}={value}" for name, value in about.items() if value)
    head = f"{_format_time(record)} {record.levelname:<7} {record.name}: {message}"
    return f"{head} ({fields})" if fields else head


def json_line(record: logging.LogRecord, message: str, more: Mapping[str, str]) -> str:
    """A line for programs: one JSON object."""
    task_id, trace_id = _about()
    about = {"task_id": task_id, "trace_id": trace_id}
    line = {
        "time": _format_time(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": message,
        **{name: value for name, value in about.items() if value},
        **more,
    }
    return json.dumps(line, ensure_ascii=False)


def _about() -> tuple[str | None, str | None]:
    task_id, traceparent = _CONTEXT.get()
    return task_id, traceparent.split("-")[1] if traceparent else None


def _format_time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
