"""The broker behind the sidecar: names of topics, publishing, and how events reach the mesh's log.

A process that keeps the log (every one, where they share a database) writes its own events there itself, and
shows them to the others on the bus. Every other process sends its events over the bus in numbered batches,
and sends again what the log has not confirmed: a broker that loses something costs time, and no event.

    {"v": 1, "from": sender, "n": number, "events": [...], "passing": [...]}     a batch; `passing`: not kept
    {"logged": {sender: [number, ...]}}                                           what the log has of whom
    {"ping": number, "from": sender}                                              see `Broker.prove`
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic_core import to_json

from meshwright.core import topics
from meshwright.core.clock import Backoff
from meshwright.core.errors import ConfigError, HostError, StoreUnavailable
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.guarantees import Bus
from meshwright.engine.stores.dapr.documents import OutboxEntry
from meshwright.engine.stores.dapr.sidecar import BUS, OWN_DATA, Options, Sidecar
from meshwright.engine.stores.dapr.state import Grouping

_logger = logging.getLogger("meshwright.dapr")

EVENTS = "events"
"""The topic of batches of events on their way to the log."""
LOGGED = "events.logged"
"""The topic of what the log has: events of its own process, and the numbers of the batches that arrived."""
_PING_SECONDS = 10.0
_PING_AGAIN_SECONDS = 0.1
_KICK_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_FIRST_KICK_SECONDS, _MAX_KICK_SECONDS = 10.0, 600.0  # before messages that were not taken are sent again
_LOOP_SECONDS = 0.05
_SHARED_SECONDS = 2.0  # within which a broker that delivers at once delivers to a shared subscription
_MAX_BATCH_BYTES = 256 * 1024
_WINDOW_SECONDS = 0.02
_CONFIRM_SECONDS = 2.0  # within which the log confirms what it has; then it is sent again
MISSING_SECONDS = 1.5
"""How long a batch waits for those before it, which may be lost, or have arrived before this process started.

Longer than the pause after which daprd offers again what was not taken: a log that starts again gets all that
waited for it in one heap.
"""
_MAX_SENDERS = 1000
_MAX_TOPICS = 10_000


class Broker:
    """Publishes to the broker. `taken_elsewhere` are topics from which other apps take messages.

    On MQTT a topic has levels, `bus/default/tasks/coder`, and `$share/APP-ID/...` gives each message to one
    replica of the app. A Redis stream, `bus.default.tasks.coder`, has no patterns, and the component's
    consumer group shares it out.
    """

    def __init__(self, sidecar: Sidecar, options: Options, bus: Bus, taken_elsewhere: Sequence[str]) -> None:
        self.sender = new_id()
        self.is_mqtt = True
        self._sidecar = sidecar
        self._options = options
        self._bus = bus
        patterns = [topics.matcher(pattern) for pattern in taken_elsewhere]
        self._is_taken_elsewhere = lru_cache(_MAX_TOPICS)(partial(_matches_any, patterns))
        self._messages: Grouping[OutboxEntry, None] = Grouping(self._publish_group, retries=True)
        self._awaited: set[int] = set()
        self._arrived = asyncio.Event()
        self._kicks = Backoff(_FIRST_KICK_SECONDS, _MAX_KICK_SECONDS, jitter=0.5)
        self._kicking: asyncio.Task[None] | None = None

    # Names

    def topic(self, topic: str) -> str:
        """The broker's name of one of our topics."""
        if self.is_mqtt:
            return f"bus/{self._options.namespace}/{topic.replace('.', '/')}"
        return f"bus.{self._options.namespace}.{topic}"

    def everything(self, pattern: str) -> str:
        """The subscription by which this process gets every message. Raises ConfigError."""
        if self.is_mqtt:
            return self.topic(pattern).replace("*", "+")
        if "*" in pattern or "#" in pattern:
            raise ConfigError(
                f"Redis streams cannot be subscribed to by a pattern such as {pattern!r}",
                remedy="subscribe to each topic by its name, or use an MQTT broker",
                field="bus",
            )
        return self.topic(pattern)

    def shared(self, pattern: str, group: str) -> str:
        """The subscription by which one member of the group gets each message."""
        return f"$share/{group}/{self.everything(pattern)}" if self.is_mqtt else self.everything(pattern)

    # Events

    def takes(self, event: Event) -> bool:
        """Whether any app takes messages from the event's topic."""
        return self._bus.takes(event.topic) or self._is_taken_elsewhere(event.topic)

    def publish(self, entry: OutboxEntry) -> asyncio.Future[None]:
        """Publish an event on its topic, again and again until the broker has it."""
        return self._messages.add(entry)

    async def publish_raw(self, topic: str, body: bytes) -> None:
        """Publish a message of our own protocol. Raises StoreUnavailable."""
        await self._sidecar.publish(BUS, self.topic(topic), [body])

    def cancel(self) -> None:
        """Give up."""
        self._messages.cancel()
        if self._kicking is not None:
            self._kicking.cancel()

    async def _publish_group(self, group: list[OutboxEntry]) -> list[BaseException | None]:
        by_topic: defaultdict[str, list[bytes]] = defaultdict(list)
        for entry in group:
            assert isinstance(entry.item, Event)
            by_topic[entry.item.topic].append(_as_cloud_event(entry.item, entry.data))
        calls = (self._sidecar.publish(BUS, self.topic(topic), by_topic[topic]) for topic in by_topic)
        sent = await asyncio.gather(*calls, return_exceptions=True)
        results = dict(zip(by_topic, sent, strict=True))
        return [results[entry.item.topic] for entry in group if isinstance(entry.item, Event)]

    # Pings: daprd subscribes at its own time, and what is published before that is lost

    def take_ping(self, ping: Mapping[str, Any]) -> None:
        """A ping has arrived, of any worker."""
        if ping.get("from") == self.sender:
            self._awaited.discard(ping["ping"])
            if not self._awaited:
                self._arrived.set()

    async def prove(self, examples: Sequence[tuple[str, str]]) -> bool:
        """Publish to each (component, topic) until all have arrived here. False where the time is over.

        A ping may go to a replica that shares the subscription: the next one arrives here.
        """
        self._awaited = set(range(len(examples)))
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PING_SECONDS):
                while self._awaited:
                    await asyncio.gather(*(self._ping(n, *examples[n]) for n in self._awaited))
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._arrived.wait(), _PING_AGAIN_SECONDS)
        return not self._awaited

    async def _ping(self, n: int, component: str, topic: str) -> None:
        try:
            await self._sidecar.publish(component, topic, [to_json({"ping": n, "from": self.sender})])
        except StoreUnavailable:
            await asyncio.sleep(_PING_AGAIN_SECONDS)

    async def lacks_shared_subscriptions(self) -> bool:
        """Whether the broker, asked without the sidecar, delivers to a topic and to no `$share` of one."""
        if not self._options.broker_url or not self.is_mqtt:
            return False
        base = self.topic(f"shared.{self.sender}")
        try:
            async with asyncio.timeout(2 * _CONNECT_SECONDS + _SHARED_SECONDS):
                return await asyncio.to_thread(_delivers_to_topics_only, self._options.broker_url, base)
        except (OSError, TimeoutError, ValueError) as error:
            _logger.info("the broker cannot be asked for shared subscriptions: %s", error)
            return False

    def kick_later(self) -> None:
        """Have the broker send again, in a while, what was not taken: it does so over a new connection."""
        if self._kicking is None or self._kicking.done():
            self._kicking = asyncio.create_task(self._kick_after(self._kicks.next()), name="kick")

    async def _kick_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.kick()

    async def kick(self) -> None:
        """Have the broker send again what it kept for this worker's sidecar, and what that may have missed.

        daprd's MQTT component connects with its session before it subscribes, so what the broker sends at
        once arrives before any handler exists, is dropped, and holds its place. A second connection under the
        same client id ends the first one's; when daprd is back its handlers are there. Found in stock
        pubsub.mqtt3 of Dapr 1.18; harmless elsewhere.
        """
        if not self._options.broker_url or not self.is_mqtt:
            return
        client_id = f"{self._options.app_id}-{self._options.replica}"
        try:
            async with asyncio.timeout(_CONNECT_SECONDS + _KICK_SECONDS):
                await asyncio.to_thread(_connect_for_a_moment, self._options.broker_url, client_id)
        except (OSError, TimeoutError, ValueError) as error:
            _logger.warning("what the broker kept may come late: it does not let %s in: %s", client_id, error)


class EventShipper:
    """Sends events until the log has them and listeners everywhere have seen them.

    `log` is set in the process that stores it; every process has one that `is_shared`. `on_logged` is called
    with each entry that the log has.
    """

    def __init__(
        self,
        broker: Broker,
        bus: Bus,
        log: EventLog | None,
        on_logged: Callable[[OutboxEntry], None],
        *,
        is_shared: bool,
    ) -> None:
        self.is_shared = is_shared
        self.is_logger = log is not None and not is_shared
        self._broker = broker
        self._bus = bus
        self._log = log
        self._on_logged = on_logged
        self._numbers = itertools.count(1)
        self._unconfirmed: dict[int, list[OutboxEntry]] = {}
        self._order = Order()
        self._taking: set[asyncio.Task[bool]] = set()
        self._batches: Grouping[tuple[OutboxEntry, bool], None] = Grouping(
            self._publish, size=256, width=1, delay_seconds=_WINDOW_SECONDS, retries=True
        )
        self._writes: Grouping[OutboxEntry, None] = Grouping(self._write, size=512, width=1, retries=True)
        self._confirmations: Grouping[tuple[str, int], None] = Grouping(self._confirm, size=256, width=1)

    def ship(self, entries: Sequence[OutboxEntry]) -> None:
        """Send events until the log has them."""
        if self._log is not None:
            self._writes.put(entries)
        else:
            self._batches.put([(entry, True) for entry in entries])

    def shipped(self, entry: OutboxEntry) -> asyncio.Future[None]:
        """Send an event so; done when the broker has it, or the log where it is here."""
        return self._writes.add(entry) if self._log is not None else self._batches.add((entry, True))

    def show(self, entry: OutboxEntry) -> None:
        """Show an event to the listeners of other processes, at most once."""
        self._batches.put([(entry, False)])

    async def take_batch(self, sender: str, number: int, events: list[Event], passing: list[Event]) -> bool:
        """Take a batch of another process; whether it may be acknowledged."""
        taking = asyncio.create_task(self._take(sender, number, events, passing))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        # A sidecar that dies takes its calls along, and what the log has by then is shown now or never.
        return await asyncio.shield(taking)

    def take_confirmation(self, logged: Mapping[str, Sequence[int]]) -> None:
        """The log has these batches, by sender."""
        for number in logged.get(self._broker.sender, ()):
            for entry in self._unconfirmed.pop(number, ()):
                self._on_logged(entry)

    def cancel(self) -> None:
        """Give up, as a crash would."""
        self._unconfirmed.clear()
        for grouping in (self._batches, self._writes, self._confirmations):
            grouping.cancel()

    async def _write(self, group: list[OutboxEntry]) -> list[None]:
        """Write events of this process into the log; then show them here and elsewhere."""
        assert self._log is not None
        events = [entry.item for entry in group if isinstance(entry.item, Event)]
        new = {id(event) for event in await self._log.append(events)}
        new_entries: list[tuple[OutboxEntry, bool]] = []
        for entry in group:
            self._on_logged(entry)
            if isinstance(entry.item, Event) and id(entry.item) in new:
                self._bus.notify(entry.item)
                new_entries.append((entry, True))
        self._batches.put(new_entries)
        return [None] * len(group)

    async def _publish(self, group: list[tuple[OutboxEntry, bool]]) -> list[BaseException | None]:
        """Publish events in numbered batches, one after another."""
        results: list[BaseException | None] = []
        for part in _parts(group):
            stored_entries = [entry for entry, is_kept in part if is_kept]
            body = b'{"v":1,"from":"%b","n":%d,"events":[%b],"passing":[%b]}' % (
                self._broker.sender.encode(),
                number := next(self._numbers),
                b",".join([entry.data for entry in stored_entries]),
                b",".join([entry.data for entry, is_kept in part if not is_kept]),
            )
            if self._log is None and stored_entries:
                self._unconfirmed[number] = stored_entries
            try:
                await self._broker.publish_raw(LOGGED if self._log is not None else EVENTS, body)
            except HostError as error:
                self._unconfirmed.pop(number, None)
                results += [error if is_kept and self._log is None else None for _, is_kept in part]
                continue
            results += [None] * len(part)
            if self._log is None and stored_entries:
                self._tell_own(stored_entries)
                asyncio.get_running_loop().call_later(_CONFIRM_SECONDS, self._send_again, number)
        return results

    def _tell_own(self, stored_entries: list[OutboxEntry]) -> None:
        for entry in stored_entries:
            if not entry.is_shown and isinstance(entry.item, Event):
                entry.is_shown = True
                self._bus.notify(entry.item)

    def _send_again(self, number: int) -> None:
        self._batches.put([(entry, True) for entry in self._unconfirmed.pop(number, ())])

    async def _take(self, sender: str, number: int, events: list[Event], passing: list[Event]) -> bool:
        """Write a batch into the log, if it is here, and show new events."""
        new = events
        if self._log is not None and self.is_shared:
            with suppress(HostError):  # it is looked at again in a moment
                await self._log.catch_up()
        elif self._log is not None:
            async with self._order.turn(sender, number):
                try:
                    new = await self._log.append(events) if events else []
                except HostError as error:
                    _logger.warning("%d events are not in the log yet: %s", len(events), error)
                    return False
            if events:
                self._confirmations.put([(sender, number)])
        for event in (*new, *passing):
            self._bus.notify(event)
        return True

    async def _confirm(self, group: list[tuple[str, int]]) -> list[None]:
        logged: defaultdict[str, list[int]] = defaultdict(list)
        for sender, number in group:
            logged[sender].append(number)
        with suppress(HostError):  # the batch comes again, and is confirmed again
            await self._broker.publish_raw(LOGGED, to_json({"logged": logged}))
        return [None] * len(group)


class Order:
    """Lets the numbered batches of each sender, which count from 1, through one after another.

    A broker's client hands messages over side by side, a log has them in order.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()
        self._lines: dict[str, _SenderLine] = {}

    @asynccontextmanager
    async def turn(self, sender: str, number: int) -> AsyncIterator[None]:
        """Wait until the batches before this one are done, for a bounded time; those after it wait for it."""
        line = self._lines.setdefault(sender, _SenderLine())
        if number > self._next.get(sender, 1):
            await self._wait(sender, line, number)
        else:
            line.under_way.append(number)
        try:
            yield
        finally:
            line.under_way.remove(number)
            self._next[sender] = max(self._next.get(sender, 1), number + 1)
            self._next.move_to_end(sender)
            self._let_through(sender, line)
            while len(self._next) > _MAX_SENDERS:
                self._next.popitem(last=False)

    async def _wait(self, sender: str, line: _SenderLine, number: int) -> None:
        loop = asyncio.get_running_loop()
        waiting = _WaitingBatch(number, loop.time() + MISSING_SECONDS, loop.create_future())
        heapq.heappush(line.waiting, waiting)
        self._let_through(sender, line)
        try:
            await waiting.passed
        except BaseException:
            if not waiting.passed.cancelled():
                line.under_way.remove(number)
            self._let_through(sender, line)
            raise

    def _let_through(self, sender: str, line: _SenderLine) -> None:
        """Let batches pass whose turn it is, or whose predecessors do not come."""
        loop = asyncio.get_running_loop()
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        while line.waiting:
            first = line.waiting[0]
            if not first.passed.done():
                if first.number > self._next.get(sender, 1):
                    if line.under_way:  # at whose end the next look is
                        return
                    if loop.time() < first.due:
                        line.timer = loop.call_at(first.due, self._let_through, sender, line)
                        return
                    self._next[sender] = first.number  # those before it do not come
                first.passed.set_result(None)
                line.under_way.append(first.number)
            heapq.heappop(line.waiting)
        if not line.under_way:
            self._lines.pop(sender, None)


@dataclass(order=True, slots=True)
class _WaitingBatch:
    """A batch that waits for those before it; from `due` on it does not if these have not come."""

    number: int
    due: float
    passed: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _SenderLine:
    """The batches of a sender that are here: those that wait, the first on top, and those that pass."""

    waiting: list[_WaitingBatch] = field(default_factory=list)
    under_way: list[int] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


def _parts(group: list[tuple[OutboxEntry, bool]]) -> list[list[tuple[OutboxEntry, bool]]]:
    """A group in parts of bounded size, in order."""
    parts: list[list[tuple[OutboxEntry, bool]]] = [[]]
    size = 0
    for item in group:
        length = len(item[0].data)
        if parts[-1] and size + length > _MAX_BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += length
    return parts


def _matches_any(patterns: Sequence[Callable[[str], bool]], topic: str) -> bool:
    return any(matches(topic) for matches in patterns)


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
    return b"%b%b%b}" % (to_json(attributes)[:-1], OWN_DATA, data)


@contextmanager
def _connection(broker_url: str, client_id: str, *, clean: bool) -> Iterator[Any]:
    """A client of MQTT 3.1.1, as daprd is one, whose callbacks the caller has to loop for."""
    from paho.mqtt.client import Client, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion

    url = urlsplit(broker_url)
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=clean, protocol=MQTTv311)
    if url.username:
        client.username_pw_set(unquote(url.username), unquote(url.password or ""))
    if url.scheme in ("mqtts", "ssl", "tls"):
        client.tls_set()
    client.connect(url.hostname or "127.0.0.1", url.port or 1883, keepalive=5)
    try:
        if not _loop_until(client, client.is_connected, _CONNECT_SECONDS):
            raise TimeoutError("no answer")
        yield client
    finally:
        client.disconnect()


def _loop_until(client: Any, is_enough: Callable[[], bool], seconds: float) -> bool:
    """Read and write for a client; False where the time is over or the connection ends before."""
    until = time.monotonic() + seconds
    while not is_enough():
        if client.loop(_LOOP_SECONDS) or time.monotonic() > until:
            return is_enough()
    return True


def _connect_for_a_moment(broker_url: str, client_id: str) -> None:
    """Connect under a client id, its session kept."""
    with _connection(broker_url, client_id, clean=False):
        time.sleep(_KICK_SECONDS)


def _delivers_to_topics_only(broker_url: str, base: str) -> bool:
    """Whether a message arrives by its topic, and none by `$share`: granted is both by most brokers."""
    arrived: set[str] = set()
    subscribed: set[int] = set()
    with _connection(broker_url, f"mesh-shared-{new_id()[-8:]}", clean=True) as client:

        def note_message(client: Any, data: Any, message: Any) -> None:
            arrived.add(message.topic)

        def note_subscription(client: Any, data: Any, mid: int, reasons: Any, properties: Any) -> None:
            subscribed.add(mid)

        client.on_message, client.on_subscribe = note_message, note_subscription

        def arrives(prefix: str, name: str, seconds: float) -> bool:
            topic = f"{base}/{name}"
            _, mid = client.subscribe(f"{prefix}{topic}", 1)
            _loop_until(client, lambda: mid in subscribed, seconds)
            client.publish(topic, b"ping", 1)
            return _loop_until(client, lambda: topic in arrived, seconds)

        return arrives("", "topic", _CONNECT_SECONDS) and not arrives(
            "$share/mesh/", "group", _SHARED_SECONDS
        )
