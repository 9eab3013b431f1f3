"""The audit trail: who changed or read what, when and from where, as events of the log.

A change is recorded before it is carried out: where it cannot be recorded, it is refused.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from meshwright.core import topics
from meshwright.core.encoding import encode
from meshwright.core.errors import HostError, MeshError
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import Caller
from meshwright.core.redaction import redact_data
from meshwright.engine.events.event_types import AuditRecorded
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime

RECORDED = "audit.recorded"
"""The type of every event of the audit trail; its payload has `action`, `subject`, `caller`, `details`."""
_READ = "contents.read"
_READ_SECONDS = 3600.0  # in which a reader of the same contents is recorded once
_MAX_READERS = 10_000  # pairs of caller and task that are remembered
_MISUSES = 10  # of one action that are recorded within that time
_MISUSE_SECONDS = 60.0


class Audit:
    """Records in the event log what people and programs do to the mesh."""

    def __init__(self, runtime: Runtime, log: EventLog) -> None:
        self._runtime = runtime
        self._log = log
        self.records_reads = False
        """Set by a mesh that starts. One that is opened to be read leaves its folder as it is."""
        self._readers: dict[tuple[str | None, ...], float] = {}
        self._misuses: dict[str, list[float]] = {}
        self._unrecorded: Counter[str] = Counter()

    async def record(
        self, caller: Caller, action: str, subject: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Record that a caller does something; durable when this returns. Call it before doing it.

        `action` is like `key.created`, `subject` like `keys/01K..`. A content goes into `details` as its
        `hashed`. Raises HostError where it cannot be recorded: then the change must not happen.
        """
        await self._runtime.emit([self._event(caller, action, subject, details or {})])

    @asynccontextmanager
    async def change(
        self, caller: Caller, action: str, subject: str, details: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[None]:
        """Record a change before the block that makes it, and `ACTION.failed` where that is refused or fails.

        The arguments are those of `record`. Raises HostError where the change cannot be recorded.
        """
        await self.record(caller, action, subject, details)
        try:
            yield
        except Exception as error:
            failure = {"error": error.code if isinstance(error, MeshError) else type(error).__name__}
            with suppress(HostError):  # the error of the change matters more; what was recorded first stands
                await self.record(caller, f"{action}.failed", subject, failure)
            raise

    async def record_read(self, caller: Caller, subject: str = "", *, task_id: str | None = None) -> None:
        """Record that a caller reads contents: those of a task, or of all `events` or the `inbox`.

        That is once an hour for each caller and subject. Raises HostError where it cannot be recorded.
        """
        subject = subject if task_id is None else f"tasks/{task_id}"
        now, reader = time.monotonic(), (caller.tenant_id, caller.requested_by, caller.key_id, subject)
        if not self.records_reads or now - self._readers.get(reader, -_READ_SECONDS) < _READ_SECONDS:
            return
        if not await self._has_read(caller, subject, task_id):
            await self.record(caller, _READ, subject)
        self._readers.pop(reader, None)  # to the end: the first is the one that read longest ago
        self._readers[reader] = now
        if len(self._readers) > _MAX_READERS:
            del self._readers[next(iter(self._readers))]

    async def _has_read(self, caller: Caller, subject: str, task_id: str | None) -> bool:
        """Whether the log has such a read of the last hour: by another process, or before a restart."""
        since = self._runtime.clock.now() - timedelta(seconds=_READ_SECONDS)
        fields: dict[str, Any] = {"event_type": RECORDED, "aggregate_id": subject_aggregate(subject)}
        fields |= {"tenant_id": caller.tenant_id, "order": "desc"}
        if task_id is None:
            fields["since"] = since
        else:  # nobody has read it before it began
            fields["after_seq"] = (await self._log.task_filter(task_id, caller.tenant_id)).after_seq
        payload = {"action": _READ, "caller": _who(caller)}
        events = await self._log.query(EventFilter(**fields))
        return any(event.time >= since and payload.items() <= event.fields.items() for event in events)

    def record_misuse(
        self,
        reason: str,
        *,
        request: str = "",
        address: str = "",
        edge: str = "api",
        caller: Caller | None = None,
    ) -> None:
        """Record that credentials were refused, or of a known `caller` that it asked for what it may not do.

        `request` is what was asked for, without contents. Each is recorded ten times a minute at most, and
        the next one counts the others. Does not wait: a flood of wrong keys is not to slow the mesh.
        """
        action, subject = "credentials.refused", "keys"
        if caller is not None:
            subject = f"callers/{caller.requested_by}" if caller.key_id is None else f"keys/{caller.key_id}"
            action = "access.refused"
        now = time.monotonic()
        recent = [at for at in self._misuses.get(action, ()) if now - at < _MISUSE_SECONDS]
        self._misuses[action] = recent
        if len(recent) >= _MISUSES:
            self._unrecorded[action] += 1
            return
        recent.append(now)
        unrecorded = self._unrecorded.pop(action, 0)
        details = {"reason": reason, "request": request, "address": address, "unrecorded_before": unrecorded}
        with suppress(HostError):  # refused it is, also where it cannot be recorded
            self._runtime.emit([self._event(caller or Caller(source=edge), action, subject, details)])

    def _event(self, caller: Caller, action: str, subject: str, details: Mapping[str, Any]) -> Event:
        aggregate_id = subject_aggregate(subject)
        return Event(
            id=f"{aggregate_id}/{new_id()}",
            event_type=RECORDED,
            topic=topics.MESH,
            time=self._runtime.clock.now(),
            tenant_id=caller.tenant_id,
            aggregate_id=aggregate_id,
            payload=AuditRecorded(
                action=action, subject=subject, caller=_who(caller), details=redact_data(dict(details))
            ),
        )


def _who(caller: Caller) -> dict[str, Any]:
    return {
        "requested_by": caller.requested_by,
        "key_id": caller.key_id,
        "roles": sorted(caller.roles),
        "edge": caller.source,
    }


def subject_aggregate(subject: str) -> str:
    """The aggregate id of the events about a subject."""
    return f"audit/{subject}"


def hashed(content: Any) -> str:
    """The SHA-256 of a content's JSON, which the trail has in the place of the content."""
    return f"sha256:{hashlib.sha256(encode(content)).hexdigest()}"
