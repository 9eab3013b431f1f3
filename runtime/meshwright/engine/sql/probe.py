"""The probe of a PostgreSQL server: tries what a start of the mesh relies on there, and writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from meshwright.core.errors import StoreFailed
from meshwright.core.part import ProbeResult
from meshwright.engine.sql.postgres import check_server

_MIN_FREE_CONNECTIONS = 10
_MAX_CLOCK_SECONDS = 2.0
_SELECT_STATE = """
    SELECT current_setting('server_version'), pg_is_in_recovery(),
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL),
        (SELECT count(*) FROM pg_stat_replication), current_setting('synchronous_standby_names'),
        current_setting('synchronous_commit'), extract(epoch FROM clock_timestamp())::float8,
        pg_backend_pid()
"""


class _ServerState(NamedTuple):
    version: str
    is_standby: bool
    free_connections: int
    standbys: int
    synchronous_names: str
    synchronous_commit: str
    time: float
    pid: int


def probe_server(connect: Callable[[], Any], location: str) -> ProbeResult:
    """Log in, look, and leave. `connect` makes a connection of the driver in autocommit.

    Raises StoreFailed where the mesh cannot run there, and the driver's errors.
    """
    unsafe = check_server(connect, location)
    with connect() as connection:
        begun = time.time()
        [row] = connection.execute(_SELECT_STATE).fetchall()
        state, now = _ServerState(*row), (begun + time.time()) / 2
        is_direct = connection.info.backend_pid == state.pid
    if state.is_standby:
        raise StoreFailed(
            f"{location} is a standby, which takes no writes",
            remedy="Name the primary, or all servers with target_session_attrs=read-write in the address",
        )
    if state.synchronous_names and not state.standbys and state.synchronous_commit not in ("off", "local"):
        raise StoreFailed(
            f"{location} waits with each commit for a synchronous standby, and none is connected",
            remedy="Start the standby, or empty synchronous_standby_names",
        )
    seen = {
        "version": state.version,
        "pooler": "none" if is_direct else "by session",
        "standbys": str(state.standbys),
        "synchronous_commit": state.synchronous_commit,
        "free connections": str(state.free_connections),
        "clock": f"{state.time - now:+.1f} s",
    }
    return ProbeResult(
        f"{location} (PostgreSQL {state.version.split()[0]})",
        seen,
        [*_limits(state, unsafe, state.time - now)],
    )


def _limits(state: _ServerState, unsafe: list[str], clock_seconds: float) -> Iterator[str]:
    if unsafe:
        yield (
            f"It has {' and '.join(unsafe)} off: a crash of its machine may lose what the mesh has accepted. "
            "Switch it on"
        )
    if state.free_connections < _MIN_FREE_CONNECTIONS:
        yield (
            f"It has {max(state.free_connections, 0)} connections left, and each process of the mesh takes "
            "five and more. Raise max_connections"
        )
    if abs(clock_seconds) > _MAX_CLOCK_SECONDS:
        yield (
            f"Its clock and that of this machine differ by {abs(clock_seconds):.0f} s. Set both by NTP: "
            "times in lists and logs are of both"
        )
