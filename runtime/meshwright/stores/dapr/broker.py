"""The broker behind the sidecar: names of topics, events to them, and proof that they come back here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from pydantic_core import from_json, to_json

from meshwright import topics
from meshwright.bus import Bus
from meshwright.errors import ConfigError, StoreUnavailable
from meshwright.messages import Event
from meshwright.stores.dapr.documents import Entry
from meshwright.stores.dapr.sidecar import BUS, Facts, Options, Sidecar
from meshwright.stores.dapr.state import Grouping

logger = logging.getLogger("meshwright.dapr")

EVENTS = "events"
"""The topic of batches of events on their way to the log."""
LOGGED = "events.logged"
"""The topic of what the log has: events of its own process, and the numbers of the batches that arrived."""
PING_SECONDS = 10.0
_PING_AGAIN_SECONDS = 0.1
_MAX_PING_BYTES = 100
_KICK_SECONDS = 0.2
CONNECT_SECONDS = 5.0
_LOOP_SECONDS = 0.05


class Broker:
    """Publishes to the broker. `taken_elsewhere` are topics from which other apps take messages.

    On MQTT a topic has levels, `bus/default/tasks/coder`, and `$share/APP-ID/...` gives each message to one
    replica of the app. A Redis stream, `bus.default.tasks.coder`, has no patterns, and the component's
    consumer group shares it out.
    """

    def __init__(
        self, sidecar: Sidecar, options: Options, bus: Bus, sender: str, taken_elsewhere: Sequence[str]
    ) -> None:
        self._sidecar = sidecar
        self._options = options
        self._bus = bus
        self._sender = sender
        self._taken_elsewhere = [topics.matcher(pattern) for pattern in taken_elsewhere]
        self._is_mqtt = True
        self._messages: Grouping[Entry, None] = Grouping(self._publish_group)
        self._awaited: set[int] = set()
        self._arrived = asyncio.Event()

    def meet(self, facts: Facts) -> None:
        """Learn what sort of broker it is."""
        self._is_mqtt = "mqtt" in facts.components[BUS]

    # Names

    def topic(self, topic: str) -> str:
        """The broker's name of one of our topics."""
        name = f"bus.{self._options.namespace}.{topic}"
        return name if not self._is_mqtt else f"bus/{self._options.namespace}/{topic.replace('.', '/')}"

    def everything(self, pattern: str) -> str:
        """What to subscribe to, so that this process gets every message. Raises ConfigError."""
        if self._is_mqtt:
            return self.topic(pattern).replace("*", "+")
        if "*" in pattern or "#" in pattern:
            raise ConfigError(
                f"Redis streams cannot be subscribed to by a pattern such as {pattern!r}",
                remedy="subscribe to each topic by its name, or use an MQTT broker",
                field="bus",
            )
        return self.topic(pattern)

    def shared(self, pattern: str, group: str) -> str:
        """What to subscribe to, so that of each message one member of the group gets a copy."""
        return f"$share/{group}/{self.everything(pattern)}" if self._is_mqtt else self.everything(pattern)

    # Events

    def takes(self, event: Event) -> bool:
        """Whether any app takes messages from the event's topic."""
        return self._bus.takes(event.topic) or any(matches(event.topic) for matches in self._taken_elsewhere)

    def publish(self, entry: Entry) -> asyncio.Future[None]:
        """Queue an event for its topic; what is awaited raises StoreUnavailable where it was not taken."""
        return self._messages.add(entry)

    async def publish_raw(self, topic: str, body: bytes) -> None:
        """Publish a message of our own protocol. Raises StoreUnavailable."""
        await self._sidecar.publish(BUS, self.topic(topic), [body], raw=True)

    def cancel(self) -> None:
        """Give up."""
        self._messages.cancel()

    async def _publish_group(self, group: list[Entry]) -> list[BaseException | None]:
        by_topic: defaultdict[str, list[bytes]] = defaultdict(list)
        for entry in group:
            assert isinstance(entry.item, Event)
            by_topic[entry.item.topic].append(_as_cloud_event(entry.item, entry.data))
        calls = (
            self._sidecar.publish(BUS, self.topic(topic), bodies, raw=True)
            for topic, bodies in by_topic.items()
        )
        sent = await asyncio.gather(*calls, return_exceptions=True)
        results = dict(zip(by_topic, sent, strict=True))
        return [results[entry.item.topic] for entry in group if isinstance(entry.item, Event)]

    # Pings: daprd subscribes at its own time, and what is published before that is lost

    def take_ping(self, data: bytes) -> bool:
        """Whether a message is a ping, of any worker."""
        if len(data) > _MAX_PING_BYTES or b'"ping"' not in data:
            return False
        try:
            document = from_json(data)
        except ValueError:
            return False
        if not isinstance(document, dict) or document.keys() != {"ping", "from"}:
            return False
        if document["from"] == self._sender:
            self._awaited.discard(document["ping"])
            if not self._awaited:
                self._arrived.set()
        return True

    async def prove(self, examples: Sequence[tuple[str, str]]) -> bool:
        """Publish to each (component, topic) until all have arrived here. False where the time is over.

        A ping may go to a replica that shares the subscription: the next one arrives here.
        """
        self._awaited = set(range(len(examples)))
        self._arrived.clear()
        try:
            async with asyncio.timeout(PING_SECONDS):
                while self._awaited:
                    await asyncio.gather(*(self._ping(n, *examples[n]) for n in self._awaited))
                    try:
                        await asyncio.wait_for(self._arrived.wait(), _PING_AGAIN_SECONDS)
                    except TimeoutError:
                        continue
        except TimeoutError:
            return False
        return True

    async def _ping(self, n: int, component: str, topic: str) -> None:
        try:
            await self._sidecar.publish(component, topic, [to_json({"ping": n, "from": self._sender})])
        except StoreUnavailable:
            await asyncio.sleep(_PING_AGAIN_SECONDS)

    async def kick(self) -> None:
        """Have the broker send again what it kept for this worker's sidecar, and what that may have missed.

        daprd's MQTT component connects with its session before it subscribes, so what the broker sends at
        once arrives before any handler exists, is dropped, and holds its place. A second connection under the
        same client id ends the first one's; when daprd is back its handlers are there. Found in stock
        pubsub.mqtt3 of Dapr 1.18; harmless elsewhere.
        """
        if not self._options.broker_url or not self._is_mqtt:
            return
        client_id = f"{self._options.app_id}-{self._options.replica}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS + _KICK_SECONDS):
                await asyncio.to_thread(_connect_for_a_moment, self._options.broker_url, client_id)
        except (OSError, TimeoutError, ValueError) as error:
            logger.warning("what the broker kept may come late: it does not let %s in: %s", client_id, error)


def example_of(pattern: str) -> str:
    """A topic that a pattern matches."""
    return pattern.replace("*", "ping").replace("#", "ping")


def _as_cloud_event(event: Event, data: bytes) -> bytes:
    """An event as a CloudEvent 1.0, with ours as its data: what any subscriber of Dapr understands.

    daprd would wrap it likewise, at twice the cost.
    """
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.event_type,
        "source": event.aggregate_id or "mesh",
        "datacontenttype": "application/json",
    }
    if event.traceparent is not None:
        attributes["traceparent"] = event.traceparent
    return b'%b,"data":%b}' % (to_json(attributes)[:-1], data)


def _connect_for_a_moment(broker_url: str, client_id: str) -> None:
    """Connect under a client id, its session kept."""
    from paho.mqtt.client import Client, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion

    url = urlsplit(broker_url)
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False, protocol=MQTTv311)
    if url.username:
        client.username_pw_set(unquote(url.username), unquote(url.password or ""))
    if url.scheme in ("mqtts", "ssl", "tls"):
        client.tls_set()
    client.connect(url.hostname or "127.0.0.1", url.port or 1883, keepalive=5)
    try:
        until = time.monotonic() + CONNECT_SECONDS
        while not client.is_connected():
            client.loop(_LOOP_SECONDS)
            if time.monotonic() > until:
                raise TimeoutError("no answer")
        time.sleep(_KICK_SECONDS)
    finally:
        client.disconnect()
