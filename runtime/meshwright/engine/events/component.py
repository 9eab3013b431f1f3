"""The components of the event log: its audit trail, traces, and the questions to people."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import asdict
from pydantic import BaseModel

from meshwright.core import topics
from meshwright.core.encoding import own_json
from meshwright.core.errors import ConfigError, HostError
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import Caller
from meshwright.core.redaction import redact_data
from meshwright.core.tracing import TENANT, Tracing
from meshwright.engine.events.audit import RECORDED, Audit, subject_aggregate
from meshwright.engine.events.event_types import AuditHead
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.heads import SIGNED, Head, HeadKeeper
from meshwright.engine.events.inbox import Inbox, InboxProjection
from meshwright.engine.events.inbox_sources import WholeInbox
from meshwright.engine.events.projections import Projection
from meshwright.engine.events.settings import AuditSettings, TracingSettings
from meshwright.engine.sql.folder import check_writable
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.mesh.components import Check, Component, Pages
from meshwright.mesh.mesh import Mesh

_SUBJECT = "settings"
_LEAST_FREE_BYTES = 100_000_000  # that a doctor calls room for a data folder


class AuditComponent(Component):
    """Signs how far the event log has come, and records with which settings a mesh starts.

    It comes first, so that it stops last, behind what others have recorded.
    """

    name = "audit"
    config: AuditSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._audit = mesh.provide(Audit(mesh.runtime, mesh.log))
        self._keeps_heads = mesh.role.is_front and mesh.settings.store != "memory"
        if self._keeps_heads:
            rows, seconds = self.config.head_rows, self.config.head_seconds
            keeper = HeadKeeper(
                mesh.database, mesh.log, mesh.runtime.clock, self._publish, rows=rows, seconds=seconds
            )
            self.parts.append(keeper)

    def checks(self) -> Iterable[Check]:
        """Whether the data folder can be written and has room, and a server of the database be reached."""
        is_server = self.mesh.database.dialect == "postgres"
        return [
            Check("disk", self._check_disk),
            *([Check("database", self._check_database)] if is_server else []),
        ]

    async def _check_disk(self) -> str:
        folder = self.mesh.settings.data_dir.absolute()
        check_writable(folder)
        existing = next(place for place in (folder, *folder.parents) if place.is_dir())
        free = shutil.disk_usage(existing).free
        if free < _LEAST_FREE_BYTES:
            raise ConfigError(
                f"{free / 1e6:,.0f} MB are free for {folder}: a mesh that cannot write there stops",
                remedy="Make room, or choose another folder with --data",
            )
        return f"{free / 1e9:,.1f} GB free for {folder}"

    async def _check_database(self) -> str:
        from meshwright.engine.sql.postgres import PostgresDatabase

        assert isinstance(self.mesh.database, PostgresDatabase)
        return (await self.mesh.database.probe()).sentence

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [Pages("/ui/events", self.folder("web"), view="Events", place=20, group="Insight")]

    async def start(self) -> None:
        """Begin to sign, and say which settings are others than at the last start."""
        await super().start()
        self._audit.records_reads = True
        if self._keeps_heads:
            await self._record_settings()

    async def stop(self) -> None:
        """Sign how far the log has come, behind all that was queued."""
        with suppress(HostError):  # the log has failed, or was never open
            await self.mesh.runtime.emit([])
        await super().stop()

    async def _publish(self, head: Head) -> None:
        mesh = self.mesh
        event = Event(
            id=f"{mesh.aggregate_id}/{new_id()}",
            event_type=SIGNED,
            topic=topics.MESH,
            time=head.time,
            aggregate_id=mesh.aggregate_id,
            payload=AuditHead(**asdict(head)),
        )
        await mesh.runtime.emit([event])

    async def _record_settings(self) -> None:
        now = redact_data(_set(self.mesh.settings))
        newest = EventFilter(
            event_type=RECORDED, aggregate_id=subject_aggregate(_SUBJECT), order="desc", limit=1
        )
        records = await self.mesh.log.query(newest)
        before = records[0].fields["details"]["settings"] if records else {}
        changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
        if changed:
            caller = Caller(requested_by="mesh", source="settings")
            details = {"changed": changed, "settings": now}
            await self._audit.record(caller, "configuration.changed", _SUBJECT, details)


def _set(settings: BaseModel, within: str = "") -> dict[str, Any]:
    """The settings that are others than their defaults, by name; secrets as stars."""
    values: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            values |= _set(value, f"{within}{name}.")
        elif value != type(settings).model_fields[name].get_default(call_default_factory=True):
            values[f"{within}{name}"] = value
    if within:
        return values
    dumped = settings.model_dump(mode="json")
    return {name: _at(dumped, name.split(".")) for name in values}


def _at(values: Any, place: list[str]) -> Any:
    for name in place:
        values = values[name]
    return values


class TracingComponent(Component):
    """Spans of runs and turns, kept in the event log."""

    name = "tracing"
    config: TracingSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._endpoint = self.config.otlp_endpoint if isinstance(mesh.tracing, Tracing) else None
        if isinstance(mesh.tracing, Tracing):
            mesh.tracing.publish_to(self._record, takes_all=True)

    def _record(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        """Put the spans of a trace into the log, those of each tenant apart: others may join its trace."""
        by_tenant: dict[str, list[Mapping[str, Any]]] = {}
        for span in spans:
            tenant_id = span["attributes"].get(TENANT, DEFAULT_TENANT)
            by_tenant.setdefault(tenant_id, []).append(span)
        for tenant_id, own in by_tenant.items():
            payload = own_json(trace_id, {"spans": own})
            self.mesh.tell(
                "trace.spans", payload, topic=topics.TRACES, trace_id=trace_id, tenant_id=tenant_id
            )

    def checks(self) -> Iterable[Check]:
        """Whether the collector accepts spans."""
        return [Check("tracing", self._check)] if self._endpoint else []

    async def _check(self) -> str:
        from meshwright.core.otel import check_collector

        assert self._endpoint is not None
        return await asyncio.to_thread(check_collector, self._endpoint)

    async def stop(self) -> None:
        """Publish what is left."""
        await self.mesh.tracing.close()


class PeopleComponent(Component):
    """The questions of tasks to people, and what else people decide."""

    name = "people"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        inbox = mesh.provide(Inbox(mesh.log))
        mesh.provide(WholeInbox(inbox))

    def projections(self) -> Iterable[Projection]:
        """The list of questions."""
        return [InboxProjection()]
