"""The calls of daprd to this worker, on either channel: topics and actors."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.clock import Clock
from meshwright.core.encoding import plain
from meshwright.core.errors import Draining, HostError, MeshError, NotFound, TooLarge
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.engine.events.event_types import BusRefused
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.store import Delivery, Receiver
from meshwright.engine.stores.dapr.broker import EVENTS, LOGGED, Broker
from meshwright.engine.stores.dapr.outbox import Outbox
from meshwright.engine.stores.dapr.sidecar import (
    BUS,
    CALL,
    DELIVER,
    OWN_DATA,
    VIEWS,
    Options,
    encode_error,
    encode_result,
)

_logger = logging.getLogger("meshwright.dapr")

SEND_BYTES = 4 * 1024 * 1024
"""Of what we send to daprd: its own limit, where it is started without `--max-body-size`."""
_MAX_REPLY_BYTES = SEND_BYTES - 64 * 1024  # something is wrapped around it
STOP_SECONDS = 10.0
"""The time that callbacks under way have to end once a channel stops."""
_TWIN_SECONDS = 1.0
_LOG_GROUP = "event-logger"
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""The errors of a document of the wrong shape; a ValidationError is a ValueError."""
_MAX_PING_BYTES = 100
_MAX_TRIES = 8  # of a message; components/resiliency.yaml has daprd try once more
_MAX_COUNTED = 1_000  # messages whose tries are counted
_MAX_QUOTED = 200  # characters of a message that is nonsense


@dataclass(frozen=True, slots=True)
class TopicRoute:
    """A topic of a pub/sub component that daprd is to deliver to this app.

    `topic` is as the component's broker wants it: `$share/mesh/bus/default/task-results`, `bus/default/#`.
    Over grpc, messages of one that is `grouped` come together that arrive while others are under way, which
    costs half as much; each is still acknowledged for itself, once all of its group have an end.
    """

    pubsub: str
    topic: str
    grouped: bool = False


class Callbacks(ABC):
    """Counts the calls of daprd to a worker, and answers them in a way that daprd understands.

    `routes` are the topics to deliver, `actor_types` the names of the turns of each type of actor. Actors
    wait until they are `served`; after `close` nothing is taken.
    """

    def __init__(self, actor_types: Mapping[str, Sequence[str]], routes: Sequence[TopicRoute] = ()) -> None:
        self.actor_types = actor_types
        self.routes = routes
        self.whole: Collection[str] = ()
        """Topics whose messages are taken whole, with the envelope of their data."""
        self.served = asyncio.Event()
        self._closed = False
        self._under_way = 0
        self._all_ended = asyncio.Event()
        for kind, turns in actor_types.items():
            for name in {CALL, DELIVER} & set(turns):
                raise ValueError(
                    f"{kind} has a turn named {name!r}, which workers on Dapr call one another by"
                )

    @abstractmethod
    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        """Take a message; whether it may be acknowledged. After an exception it comes again."""

    @abstractmethod
    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn, or CALL or DELIVER with an encoded message as the body. JSON in, JSON out."""

    async def close(self) -> None:
        """Refuse new messages and calls, and wait STOP_SECONDS at most for those under way."""
        self._closed = True
        self.served.set()
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), STOP_SECONDS)

    async def topic(self, pubsub: str, topic: str, message: bytes) -> bool:
        """Give a message to the app; whether it may be acknowledged."""
        if self._closed:
            return False
        with self._counted():
            try:
                data = message if topic in self.whole else _payload(message)
                return await self.on_topic(pubsub, topic, data)
            except Exception as error:  # whatever it was, the message was not taken
                defect = None if isinstance(error, MeshError) else error
                _logger.warning("a message on %s has to come again: %r", topic, error, exc_info=defect)
                return False

    async def actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn: for another worker, the reply holds what it returned or raised (see `decode_reply`).

        For other callers it is plain JSON, never empty, and what the turn raises is raised.
        """
        is_between_workers = method in (CALL, DELIVER)
        try:
            reply = await self._turn(ref, method, body)
        except Exception as error:
            if not isinstance(error, MeshError):
                _logger.warning("%s.%s has a defect", ref, method, exc_info=error)
            if not is_between_workers:
                raise
            return encode_error(error)
        return encode_result(reply) if is_between_workers else reply

    async def _turn(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        if ref.type not in self.actor_types or method not in (CALL, DELIVER, *self.actor_types[ref.type]):
            raise NotFound(f"{ref} has no turn named {method!r} here", field="method")
        await self.served.wait()
        with self._counted():
            reply = await self.on_actor(ref, method, body or b"null") or b"null"
        if len(reply) > _MAX_REPLY_BYTES:
            raise TooLarge(f"the reply of {ref}.{method} has {len(reply)} bytes, over {_MAX_REPLY_BYTES}")
        return reply

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._closed:
            raise Draining("this worker is stopping", remedy="try again: another takes its place")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._closed and not self._under_way:
                self._all_ended.set()


class AppCallbacks(Callbacks):
    """Gives what daprd calls to the runtime. Topics and actor calls wait until it is `opened`."""

    def __init__(
        self, options: Options, receiver: Receiver, broker: Broker, outbox: Outbox, clock: Clock
    ) -> None:
        super().__init__({kind.type: list(kind.methods) for kind in receiver.kinds.values()})
        self.opened = asyncio.Event()
        self.examples: Sequence[tuple[str, str]] = ()
        """A component and a topic for each route, to publish examples that come by it."""
        self._app_id = options.app_id
        self._receiver = receiver
        self._broker = broker
        self._outbox = outbox
        self._clock = clock
        self._taking: dict[bytes, asyncio.Future[bool]] = {}
        self._tries: OrderedDict[bytes, int] = OrderedDict()  # of messages that were not taken

    def subscribe(self) -> None:
        """Find what to subscribe to, now that the kind of the broker is known. Raises ConfigError."""
        broker, shipper = self._broker, self._outbox.shipper
        patterns = sorted(set(self._receiver.bus.patterns))
        routes = {
            pattern: TopicRoute(BUS, broker.shared(pattern, self._app_id), grouped=True)
            for pattern in patterns
        }
        if shipper.is_logger:
            routes[EVENTS] = TopicRoute(BUS, broker.shared(EVENTS, _LOG_GROUP))
        else:
            for topic in [LOGGED] if shipper.is_shared else [EVENTS, LOGGED]:
                routes[topic] = TopicRoute(VIEWS, broker.everything(topic))
        self.whole = self._receiver.topic_takers
        group = f"$share/{self._app_id}/" if broker.is_mqtt else ""
        topic_routes = [TopicRoute(BUS, f"{group}{topic}") for topic in self.whole]
        self.routes = [*routes.values(), *topic_routes]
        self.examples = [
            (route.pubsub, broker.topic(re.sub(r"[*#]", "ping", pattern)))
            for pattern, route in routes.items()
        ]

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
        is_taken = is_given_up = False
        try:
            is_taken = await self.take(topic, data)
        except Exception:  # any error of a handler: the message comes again, unless it is given up
            if not (is_given_up := self._gives_up(topic, data)):
                raise
            _logger.exception("a message on %s failed", topic)
        else:
            is_given_up = not is_taken and self._gives_up(topic, data)
        finally:  # also where daprd hangs up: a twin then has to try for itself
            taking.set_result(is_taken)
            if is_taken:
                # daprd's MQTT client hands each message of a shared subscription on twice once it has
                # connected again: it then knows the subscription by its name and by its filter (daprd 1.18).
                asyncio.get_running_loop().call_later(_TWIN_SECONDS, self._taking.pop, data, None)
                self._tries.pop(data, None)
            else:
                self._taking.pop(data)
        return is_taken or is_given_up

    def _gives_up(self, topic: str, data: bytes) -> bool:
        """Count a try that failed. True acknowledges the message all the same.

        daprd offers a message for some seconds only. Then it stays at an MQTT broker without an
        acknowledgement, in one of the few places of messages in flight (20 at Mosquitto by default), so that
        some of them hold up all other topics. A message of ours is sent again by its task, or with its batch.
        One of another program stays there, until a new connection brings it again.
        """
        tries = self._tries[data] = self._tries.pop(data, 0) + 1
        if len(self._tries) > _MAX_COUNTED:
            self._tries.popitem(last=False)
        if tries < _MAX_TRIES:
            return False
        self._tries.pop(data, None)
        if topic in self.whole:
            self._broker.kick_later()
            return False
        _logger.warning("a message on %s is given up after %d tries: its task sends it again", topic, tries)
        return True

    async def take(self, topic: str, data: bytes) -> bool:
        """Take one message. Nonsense is acknowledged, since it would come for ever: see `bus.refused`."""
        if (taker := self._receiver.topic_takers.get(topic)) is not None:
            return await taker(data)
        try:
            if data.startswith(b'{"v":1,"from":'):
                return await self._take_batch(from_json(data))
            if data.startswith(b'{"logged":'):
                logged = from_json(data)["logged"]
                self._outbox.shipper.take_confirmation(
                    {sender: [*map(int, of)] for sender, of in logged.items()}
                )
                return True
            event = Event.model_validate_json(data)
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
            _logger.warning("event %s is asked for again: %s", event.id, error)
            return False
        return True

    async def _refuse(self, topic: str, data: bytes, error: Exception) -> bool:
        reason = " ".join(str(error).split())[:_MAX_QUOTED]
        _logger.warning("a message on %s is no event, and is dropped: %s", topic, reason)
        begins = data[:_MAX_QUOTED].decode(errors="replace")
        refused = Event(
            id=f"bus/{new_id()}",
            event_type=BusRefused.event_type,
            topic=BusRefused.event_topic,
            time=self._clock.now(),
            aggregate_id="bus",
            payload=BusRefused(topic=topic, bytes=len(data), begins=begins, error=reason),
        )
        try:
            await self._outbox.emit([refused])
        except HostError:
            return False
        return True


def _payload(message: bytes) -> bytes:
    """The data of a CloudEvent, or the whole of a message that is none."""
    if b'"specversion"' not in message or not message.lstrip().startswith(b"{"):
        return message
    _, is_ours, data = message.partition(OWN_DATA)
    if is_ours:
        return data[:-1]
    try:
        match from_json(message):
            case {"specversion": _, "id": _, "source": _, "type": _, "data_base64": str(data)}:
                return base64.b64decode(data, validate=True)
            case {"specversion": _, "id": _, "source": _, "type": _, "data": data, **rest}:
                is_text = "json" not in str(rest.get("datacontenttype", "json"))
                return data.encode() if isinstance(data, str) and is_text else to_json(data)
    except ValueError:  # neither JSON nor base64 after all
        pass
    return message
