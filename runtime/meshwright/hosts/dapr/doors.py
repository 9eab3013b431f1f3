"""The doors: what daprd brings, whichever channel it comes by."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pydantic_core import to_json

from meshwright.envelope import ActorRef, Message
from meshwright.host import Subscription
from meshwright.hosts.dapr.cells import Cells
from meshwright.hosts.dapr.channels.port import Route
from meshwright.hosts.dapr.channels.replies import CALL, DELIVER
from meshwright.hosts.dapr.deliveries import Deliveries
from meshwright.hosts.dapr.inbox import Inbox
from meshwright.hosts.dapr.naming import EVENTS, LOGGED, Naming
from meshwright.hosts.dapr.ping import Pings, example_of
from meshwright.hosts.dapr.recovery import Recovery
from meshwright.hosts.dapr.sidecar import BUS, VIEWS
from meshwright.messages import new_id

TWIN_SECONDS = 1.0
LOG_GROUP = "event-logger"


class Doors:
    """The app, as a channel sees it. Topics and reminders wait until it is `opened`."""

    def __init__(
        self,
        app_id: str,
        cells: Cells,
        deliveries: Deliveries,
        inbox: Inbox,
        pings: Pings,
        recovery: Recovery,
        *,
        keeps_log: bool,
    ) -> None:
        self.naming: Naming | None = None
        self.subscriptions: list[Subscription] = []
        self.opened = asyncio.Event()
        self._app_id = app_id
        self._cells = cells
        self._deliveries = deliveries
        self._inbox = inbox
        self._pings = pings
        self._recovery = recovery
        self._keeps_log = keeps_log
        self._taking: dict[bytes, asyncio.Future[bool]] = {}

    @property
    def actor_types(self) -> Mapping[str, Sequence[str]]:
        """The types that live here, with their turns, and that of the watch list's reminders."""
        types = {kind.type: list(kind.methods) for kind in self._cells.kinds.values()}
        return {**types, self._recovery.actor_type: []}

    @property
    def routes(self) -> Sequence[Route]:
        """What to subscribe to."""
        assert self.naming is not None
        routes = [Route(BUS, self.naming.shared(each, self._app_id), grouped=True) for each in self._patterns]
        if self._keeps_log:
            return [*routes, Route(BUS, self.naming.shared(EVENTS, LOG_GROUP))]
        return [*routes, *(Route(VIEWS, self.naming.everything(each)) for each in (EVENTS, LOGGED))]

    @property
    def examples(self) -> Sequence[tuple[str, str]]:
        """For each route a component and a topic: what is published there comes by it."""
        assert self.naming is not None
        topics = [(BUS, self.naming.topic(example_of(pattern))) for pattern in self._patterns]
        if self._keeps_log:
            return [*topics, (BUS, self.naming.topic(EVENTS))]
        return [*topics, *((VIEWS, self.naming.topic(each)) for each in (EVENTS, LOGGED))]

    @property
    def _patterns(self) -> Sequence[str]:
        return sorted({each.pattern for each in self.subscriptions})

    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        """Take a message of the broker, once though it be handed over twice."""
        if self._pings.take(data):
            return True
        await self.opened.wait()
        twin = self._taking.get(data)
        if twin is not None:
            return twin.result() if twin.done() else await asyncio.shield(twin)
        taking = self._taking[data] = asyncio.get_running_loop().create_future()
        try:
            taken = await self._inbox.take(topic, data)
        except BaseException:  # also where daprd hangs up: a twin is then to be tried for itself
            taking.set_result(False)
            self._taking.pop(data)
            raise
        taking.set_result(taken)
        self._taken(data, taken)
        return taken

    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn for another host (CALL, DELIVER) or for any client of Dapr (by the turn's name)."""
        await self.opened.wait()
        if method == DELIVER:
            await self._deliveries.deliver(Message.decode(body))
            return b"null"
        message = (
            Message.decode(body)
            if method == CALL
            else Message(f"call/{new_id()}", ref, method, body if body.strip() else None)
        )
        return to_json(await self._deliveries.put(message, is_call=True))

    async def on_reminder(self, ref: ActorRef, name: str) -> None:
        """A watch list's reminder."""
        await self.opened.wait()
        await self._recovery.on_reminder(ref.id)

    def _taken(self, data: bytes, taken: bool) -> None:
        """Forget a message, but not before its twin has come.

        daprd's MQTT client hands each message of a shared subscription on twice once it has connected anew:
        it then knows the subscription by its name and by its filter (seen with daprd 1.18).
        """
        if taken:
            asyncio.get_running_loop().call_later(TWIN_SECONDS, self._taking.pop, data, None)
        else:
            self._taking.pop(data)
