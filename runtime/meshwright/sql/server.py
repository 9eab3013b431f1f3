"""Checks of a server of PostgreSQL, and of the way to it, once at a start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwright.core.errors import StoreFailed

MIN_VERSION = 13
_SELECT_PID = "SELECT pg_backend_pid()"


def check_server(connect: Callable[[], Any], location: str) -> None:
    """Refuse a server that is too old, and a pooler that changes the session between transactions.

    `connect` makes a connection of the driver in autocommit. Raises StoreFailed, and the driver's errors.
    """
    with connect() as connection:
        version = connection.info.server_version // 10_000
        if version < MIN_VERSION:
            raise StoreFailed(
                f"{location} is PostgreSQL {version}, which is too old",
                remedy=f"Upgrade the server: the mesh needs PostgreSQL {MIN_VERSION} or newer",
            )
        if _is_direct(connection):
            return
        before = _pid_of(connection)
        with connect() as other:
            other.execute("BEGIN")  # a pooler by transaction gives it the session that is free now
            others = _pid_of(other)
            if others == before or _pid_of(connection) != before:
                raise StoreFailed(
                    f"{location} is reached through a pooler that changes the session with each transaction; "
                    "leases and notifications of the mesh live in a session",
                    remedy="Connect directly, or let the pooler pool by session (pool_mode = session)",
                )


def _is_direct(connection: Any) -> bool:
    """Whether no pooler stands in between: it names another process than the server does."""
    return bool(connection.info.backend_pid == _pid_of(connection))


def _pid_of(connection: Any) -> int:
    [(pid,)] = connection.execute(_SELECT_PID).fetchall()
    return int(pid)
