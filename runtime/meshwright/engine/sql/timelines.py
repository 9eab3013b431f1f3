"""Timelines of PostgreSQL: by its lower one an old primary is known that comes back after a failover.

Each promotion of a standby begins another timeline. The data folder keeps the newest one that this process
has worked with, and no connection is made to a server that is on an older one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from pydantic_core import from_json, to_json

from meshwright.core.errors import StoreFailed
from meshwright.engine.sql.folder import read_private, write_private

_logger = logging.getLogger("meshwright.store")

FILE_NAME = "mesh.timeline"
SELECT_TIMELINE = b"""
    SELECT system_identifier::text, CASE WHEN pg_is_in_recovery() THEN timeline_id
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END
    FROM pg_control_system(), pg_control_checkpoint()
"""
_PROBE_SECONDS = 3  # to connect to one of several servers
_REMEDY = (
    "Stop that server, or make it a standby of the new primary. To go on with it all the same, without what "
    "the other has, start once with MESH_ACCEPT_LOSS=true"
)


class Timeline(NamedTuple):
    """The history that a server is on: the id of the cluster, and a number that each promotion raises."""

    system: str
    number: int

    def is_older(self, known: Timeline | None) -> bool:
        """Whether the same cluster has been on a newer one."""
        return known is not None and self.system == known.system and self.number < known.number


class Timelines:
    """The newest timeline that the process of a data folder has worked with."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    def known(self) -> Timeline | None:
        """The newest one, None where none is known. Read anew, since other processes write it."""
        try:
            fields = from_json(read_private(self._path))
            return Timeline(str(fields["system"]), int(fields["number"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self) -> None:
        """Let the next server be on any."""
        self._path.unlink(missing_ok=True)

    def learn(self, servers: Iterable[Mapping[str, Any]]) -> None:
        """Take up the newest timeline of the servers that can be reached, each with its own settings."""
        known = self.known()
        timelines = [timeline for server in servers if (timeline := _probed(server)) is not None]
        if not timelines:
            return
        systems = [timeline.system for timeline in timelines]
        system = known.system if known is not None and known.system in systems else systems[0]
        self.note(max(timeline for timeline in timelines if timeline.system == system))

    def note(self, timeline: Timeline) -> None:
        """Take up the timeline of a server that the mesh works with, unless it is known."""
        known = self.known()
        if timeline == known or timeline.is_older(known):
            return
        try:
            write_private(self._path, to_json(timeline._asdict()).decode())
        except OSError as error:
            _logger.warning("%s cannot be written, so an old primary goes unnoticed: %s", self._path, error)

    def refusal(self, row: Sequence[Any] | None, server: Any, location: str) -> StoreFailed | None:
        """Why a server is not used, by the row that it gave for SELECT_TIMELINE; None where it may be.

        `server` are the driver's facts of the connection.
        """
        known = self.known()
        if row is None or known is None or not Timeline(*row).is_older(known):
            return None
        return StoreFailed(
            f"The server {server.host}:{server.port} of {location} is an old primary that came back: it is "
            f"on timeline {row[1]}, and this mesh has worked on timeline {known.number}",
            remedy=_REMEDY,
        )


def single_servers(settings: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The settings of a connection for each server that its address names."""
    lists = {
        name: text.split(",")
        for name, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"), ("port", "PGPORT"))
        if (text := str(settings.get(name) or os.environ.get(variable, "")))
    }
    count = max((len(lists[name]) for name in ("host", "hostaddr") if name in lists), default=1)
    return [
        {**settings, **{name: values[place % len(values)] for name, values in lists.items()}}
        for place in range(count)
    ]


def _probed(server: Mapping[str, Any]) -> Timeline | None:
    """The timeline of a server, whether it may be written or not; None where it does not say."""
    settings: dict[str, Any] = {**server, "target_session_attrs": "any", "connect_timeout": _PROBE_SECONDS}
    try:
        with psycopg.connect(**settings, autocommit=True) as connection:
            row = connection.execute(SELECT_TIMELINE).fetchone()
    except psycopg.Error:  # it is away, or tells nobody
        return None
    return None if row is None else Timeline(*row)
