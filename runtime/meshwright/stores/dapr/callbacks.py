"""What daprd calls of this worker, whichever channel it uses: topics, actors and reminders."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic_core import from_json, to_json

from meshwright import topics
from meshwright.clock import Clock
from meshwright.encoding import plain
from meshwright.envelope import ActorRef, Message
from meshwright.errors import HostError
from meshwright.kernel.store import Delivery, Receiver
from meshwright.messages import Event, new_id
from meshwright.stores.dapr.broker import EVENTS, LOGGED, Broker
from meshwright.stores.dapr.channels import TopicRoute
from meshwright.stores.dapr.outbox import Outbox
from meshwright.stores.dapr.sidecar import BUS, CALL, DELIVER, VIEWS, Options

logger = logging.getLogger("meshwright.dapr")

_TWIN_SECONDS = 1.0
_LOG_GROUP = "event-logger"
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What a document raises that has not the shape it should have; a ValidationError is a ValueError."""
_MAX_PING_BYTES = 100
_MAX_QUOTED = 200  # characters of a message that is nonsense


class AppCallbacks:
    """The app, as a channel sees it. Topics and actor calls wait until it is `opened`."""

    def __init__(
        self, options: Options, receiver: Receiver, broker: Broker, outbox: Outbox, clock: Clock
    ) -> None:
        self.opened = asyncio.Event()
        self._app_id = options.app_id
        self._receiver = receiver
        self._broker = broker
        self._outbox = outbox
        self._clock = clock
        self._taking: dict[bytes, asyncio.Future[bool]] = {}

    @property
    def actor_types(self) -> Mapping[str, Sequence[str]]:
        """The types that run here, with their turns."""
        return {kind.type: list(kind.methods) for kind in self._receiver.kinds.values()}

    @property
    def routes(self) -> Sequence[TopicRoute]:
        """What to subscribe to."""
        shared, patterns = self._broker.shared, sorted(set(self._receiver.bus.patterns))
        routes = [
            TopicRoute(BUS, shared(pattern, self._app_id), pattern, grouped=True) for pattern in patterns
        ]
        if self._outbox.shipper.is_logger:
            return [*routes, TopicRoute(BUS, shared(EVENTS, _LOG_GROUP), EVENTS)]
        views = [LOGGED] if self._outbox.shipper.is_shared else [EVENTS, LOGGED]
        return [*routes, *(TopicRoute(VIEWS, self._broker.everything(topic), topic) for topic in views)]

    @property
    def examples(self) -> Sequence[tuple[str, str]]:
        """For each route a component and a topic: what is published there comes by it."""
        examples = [(route.pubsub, re.sub(r"[*#]", "ping", route.pattern)) for route in self.routes]
        return [(pubsub, self._broker.topic(topic)) for pubsub, topic in examples]

    # Actors

    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn for another worker (CALL, DELIVER) or for any client of Dapr (by the turn's name)."""
        await self.opened.wait()
        if method == DELIVER:
            await self._outbox.deliver(Message.decode(body))
            return b"null"
        message = (
            Message.decode(body)
            if method == CALL
            else Message(f"call/{new_id()}", ref, method, body if body.strip() else None)
        )
        self._receiver.admit(message.to)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._receiver.deliver(Delivery(message, is_call=True, reply=reply))
        return to_json(await reply, fallback=plain)

    # Topics

    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        """Take a message of the broker, once though it is handed over twice: True acknowledges it.

        False or an exception asks for it again. `data` is a CloudEvent's data (as JSON where that is what it
        holds), or all the bytes of a message that is none.
        """
        if data.startswith(b'{"ping":') and len(data) <= _MAX_PING_BYTES:
            with suppress(*_NONSENSE):
                self._broker.take_ping(from_json(data))
            return True
        await self.opened.wait()
        twin = self._taking.get(data)
        if twin is not None:
            return twin.result() if twin.done() else await asyncio.shield(twin)
        taking = self._taking[data] = asyncio.get_running_loop().create_future()
        try:
            taken = await self.take(topic, data)
        except BaseException:  # also where daprd hangs up: a twin then has to try for itself
            taking.set_result(False)
            self._taking.pop(data)
            raise
        taking.set_result(taken)
        # daprd's MQTT client hands each message of a shared subscription on twice once it has connected
        # again: it then knows the subscription by its name and by its filter (seen with daprd 1.18).
        if taken:
            asyncio.get_running_loop().call_later(_TWIN_SECONDS, self._taking.pop, data, None)
        else:
            self._taking.pop(data)
        return taken

    async def take(self, topic: str, data: bytes) -> bool:
        """Take one message. Nonsense is acknowledged, since it would come for ever: see `bus.refused`."""
        try:
            document = from_json(data)
            if isinstance(document, dict) and "events" in document:
                return await self._take_batch(document)
            if isinstance(document, dict) and "logged" in document:
                logged = {str(sender): [*map(int, of)] for sender, of in document["logged"].items()}
                self._outbox.shipper.take_confirmation(logged)
                return True
            event = Event.model_validate(document)
        except _NONSENSE as error:
            return await self._refuse(topic, data, error)
        return await self._take_event(event)

    async def _take_batch(self, batch: dict[str, Any]) -> bool:
        """Log and show the events of another process; ours are logged and shown where they come from."""
        sender, number = str(batch["from"]), int(batch["n"])
        if sender == self._broker.sender:
            return True
        events = [Event.model_validate(event) for event in batch["events"]]
        passing = [Event.model_validate(event) for event in batch.get("passing", ())]
        return await self._outbox.shipper.take_batch(sender, number, events, passing)

    async def _take_event(self, event: Event) -> bool:
        spread, messages = self._receiver.bus.spread([event])
        try:
            for message in messages:
                await self._outbox.deliver(message)
            if len(spread) > 1:  # what a route could not read
                await self._outbox.emit(spread[1:])
        except HostError as error:
            logger.warning("event %s is asked for again: %s", event.id, error)
            return False
        return True

    async def _refuse(self, topic: str, data: bytes, error: Exception) -> bool:
        reason = " ".join(str(error).split())[:_MAX_QUOTED]
        logger.warning("a message on %s is no event, and is dropped: %s", topic, reason)
        payload = {
            "topic": topic,
            "bytes": len(data),
            "begins": data[:_MAX_QUOTED].decode(errors="replace"),
            "error": reason,
        }
        refused = Event(
            id=f"bus/{new_id()}",
            event_type="bus.refused",
            topic=topics.MESH,
            time=self._clock.now(),
            aggregate_id="bus",
            payload=payload,
        )
        try:
            await self._outbox.emit([refused])
        except HostError:
            return False
        return True
