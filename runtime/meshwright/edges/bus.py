"""Tasks from the bus: programs publish them as CloudEvents on topics of their own, and are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from meshwright.component import Component
from meshwright.core.access import Role
from meshwright.core.errors import Draining, MeshError
from meshwright.core.messages import Caller
from meshwright.edges.cloud_events import EventAddress, TaskEvent, accept, envelope, refusal
from meshwright.edges.replies import Address, Courier, until_answered
from meshwright.edges.settings import Publisher
from meshwright.identity.operations import Operations
from meshwright.mesh import Mesh
from meshwright.work.protocol import TaskKey

_logger = logging.getLogger("meshwright.edges.bus")


class BusSender:
    """Publishes outcomes as CloudEvents."""

    scheme = scope = "bus"

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def typed(self, address: Address) -> EventAddress:
        """Returns a stored address as one of a topic."""
        return EventAddress.model_validate(address.model_dump(mode="json"))

    def standing(self, task: TaskKey) -> Sequence[Address]:
        """Returns nothing: only who published a task gets its outcome."""
        return ()

    async def send(self, address: Address, document: bytes) -> None:
        """Publish an outcome. Raises StoreUnavailable while the broker is away."""
        typed = self.typed(address)
        await self._mesh.host.publish_raw(typed.topic, envelope(typed.attributes, document))


class PublishersComponent(Component):
    """Takes the tasks of [dapr.publishers] at the front of a mesh on Dapr."""

    name = "publishers"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._stopping = asyncio.Event()
        self._publishers = mesh.settings.dapr.publishers
        if self._publishers and mesh.host.has_broker and mesh.role.is_front:
            mesh.component(Courier).register(BusSender(mesh))
            for name, publisher in self._publishers.items():
                mesh.host.take_topic(publisher.topic, partial(self._take, name, publisher))

    def warnings(self) -> Iterable[str]:
        """Publishers that nobody listens to."""
        if self._publishers and not self.mesh.host.has_broker:
            yield "[dapr.publishers] has no effect: this mesh is not on Dapr; publish over MQTT instead"

    async def start(self) -> None:
        """Take events."""
        self._stopping.clear()

    async def stop(self) -> None:
        """Leave events that cannot be taken now to the broker."""
        self._stopping.set()

    async def _take(self, name: str, publisher: Publisher, body: bytes) -> bool:
        """Take an event, answer it, and have it acknowledged. Raises HostError for one to come again."""
        by, tenant_id = f"bus:{name}", publisher.tenant
        caller = Caller(
            tenant_id=tenant_id, requested_by=by, source=by, roles=frozenset({Role.SUBMITTER.value})
        )
        outcome_to = partial(EventAddress, client=by, topic=publisher.results)
        try:
            event = TaskEvent.read(body, self.mesh.settings)
            operations = Operations(self.mesh, caller)
            answer = await accept(operations, event, BusSender.scheme, outcome_to, self._asked)
        except Draining:
            raise
        except Exception as error:  # the sender gets every error, and the event does not come for ever
            if not isinstance(error, MeshError):
                _logger.exception("an event on %s failed", publisher.topic)
                what = f"An unexpected {type(error).__name__}"
                error = MeshError(what, remedy="The log of the mesh says more")
            answer = refusal(body, error, tenant_id)
            known = {"topic": publisher.topic, "publisher": name, "bytes": len(body), "error": str(error)}
            self.mesh.tell("bus.refused", known, tenant_id=tenant_id)
        await self.mesh.host.publish_raw(publisher.receipts, answer)
        return True

    def _asked(self, ask: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        return until_answered(ask, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
            raise Draining("the mesh is stopping")
