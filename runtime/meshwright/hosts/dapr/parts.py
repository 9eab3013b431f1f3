"""The parts of a host on Dapr, and how they are joined: the one place that knows them all.

    Store      the sidecar, and in the state store the documents, records and leases
    Outgoing   events on their way to the log and to topics
    Turns      cells, the turns that run on them, and what these send
    Entrance   what daprd brings, and the link over which it does

Each group is made from those above it. What a group needs of a later one it is given as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshwright.bus import Bus
from meshwright.clock import Clock
from meshwright.envelope import ActorRef
from meshwright.events.logger import EventLogger
from meshwright.hosts.dapr.background import Background
from meshwright.hosts.dapr.cells import Cells, Documents
from meshwright.hosts.dapr.deliveries import Deliveries
from meshwright.hosts.dapr.doors import Doors
from meshwright.hosts.dapr.emitter import Emitter
from meshwright.hosts.dapr.executor import Executor, Tells
from meshwright.hosts.dapr.inbox import Inbox
from meshwright.hosts.dapr.keeping import Batches, Confirmations, Keeper, OwnLog, RemoteLog
from meshwright.hosts.dapr.lease import KNOWN_ALIVE_SECONDS, Lease
from meshwright.hosts.dapr.link import Link
from meshwright.hosts.dapr.loader import Loader
from meshwright.hosts.dapr.naming import EVENTS, LOGGED, Naming
from meshwright.hosts.dapr.options import Options
from meshwright.hosts.dapr.ping import Pings
from meshwright.hosts.dapr.records import Appends, Records
from meshwright.hosts.dapr.recovery import Recovery
from meshwright.hosts.dapr.relay import Publisher, Relay
from meshwright.hosts.dapr.sidecar import Sidecar
from meshwright.hosts.dapr.state import State
from meshwright.hosts.dapr.wakes import Wakes
from meshwright.hosts.dapr.watch import Watches
from meshwright.messages import new_id
from meshwright.tracing import NoTracing, Tracing


@dataclass(frozen=True, slots=True)
class Given:
    """What a host was made with, and how its parts ask it or tell it something.

    `log` is there where this process keeps the mesh's; `is_taken` says whether any app takes messages from
    a topic.
    """

    options: Options
    clock: Clock
    tracing: Tracing | NoTracing
    bus: Bus
    log: EventLogger | None
    background: Background
    max_mailbox: int
    max_active: int
    max_record_bytes: int
    is_taken: Callable[[str], bool]
    incarnation: Callable[[], str]
    commit_name: Callable[[], str]
    signal: Callable[[ActorRef, Sequence[Any]], None]
    set_alarm: Callable[[ActorRef, datetime | None], None]
    lapse: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Store:
    """The state store, reached by the sidecar."""

    sidecar: Sidecar
    state: State
    lease: Lease
    documents: Documents
    records: Records


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What leaves this process by the bus, which knows it as `sender`."""

    sender: str
    publisher: Publisher
    keeper: Keeper
    remote: RemoteLog
    confirmations: Confirmations
    emitter: Emitter

    def cancel(self) -> None:
        """Give up."""
        self.publisher.cancel()
        self.keeper.cancel()
        self.confirmations.cancel()


@dataclass(frozen=True, slots=True)
class Turns:
    """The actors of this process, and what happens to them."""

    cells: Cells
    executor: Executor
    deliveries: Deliveries
    relay: Relay
    wakes: Wakes
    appends: Appends


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a host is made of."""

    store: Store
    outgoing: Outgoing
    turns: Turns
    doors: Doors
    link: Link


def join(given: Given) -> Parts:
    """Make the parts of a host; nothing is opened yet."""

    def naming() -> Naming:
        assert parts.doors.naming is not None
        return parts.doors.naming

    store = make_store(given)
    outgoing = make_outgoing(given, store.sidecar, naming)
    turns = make_turns(given, store, outgoing)
    parts = Parts(store, outgoing, turns, *make_entrance(given, store, outgoing, turns))
    return parts


def make_store(given: Given) -> Store:
    """What is kept, and by whose lease."""
    options = given.options
    sidecar = Sidecar(options.grpc_port, options.api_token)
    state = State(sidecar, options.namespace, patience_seconds=options.patience_seconds)
    lease = Lease(state, sidecar, lease_seconds=options.lease_seconds, renew_seconds=options.renew_seconds)
    return Store(sidecar, state, lease, Documents(state), Records(state, given.commit_name))


def make_outgoing(given: Given, sidecar: Sidecar, naming: Callable[[], Naming]) -> Outgoing:
    """What goes to the log, wherever that is, and to topics."""
    sender = new_id()
    batches = Batches(sidecar, sender, naming, LOGGED if given.log else EVENTS)
    remote = RemoteLog(given.bus, batches)
    keeper: Keeper = OwnLog(given.log, given.bus, batches) if given.log else remote
    publisher = Publisher(sidecar, naming, given.is_taken)
    confirmations = Confirmations(sidecar, naming)
    return Outgoing(sender, publisher, keeper, remote, confirmations, Emitter(publisher, keeper))


def make_turns(given: Given, store: Store, outgoing: Outgoing) -> Turns:
    """What runs turns, sends what they sent, and wakes actors that are owed something."""
    cells = Cells(given.max_active)
    loader = Loader(store.documents, given.incarnation, store.lease.is_known_gone)
    executor = Executor(
        store.documents,
        loader,
        store.records,
        given.clock,
        given.tracing,
        Tells(given.signal, given.set_alarm, lambda cell: wakes.send(cell), outgoing.emitter.emit),
        given.commit_name,
        given.max_record_bytes,
    )
    deliveries = Deliveries(
        cells,
        executor,
        store.sidecar,
        given.clock,
        max_mailbox=given.max_mailbox,
        begin=given.background.begin,
        emit=outgoing.emitter.emit,
    )
    relay = Relay(
        outgoing.publisher,
        outgoing.keeper,
        deliveries.deliver,
        given.background.begin,
        lambda cell: wakes.settled(cell),
    )
    wakes = Wakes(
        cells,
        loader,
        executor,
        deliveries,
        relay,
        given.clock,
        incarnation=given.incarnation,
        is_gone=store.lease.is_known_gone,
        settled_seconds=given.options.lease_seconds + KNOWN_ALIVE_SECONDS,
    )
    appends = Appends(store.records, cells, relay, outgoing.emitter, given.incarnation)
    return Turns(cells, executor, deliveries, relay, wakes, appends)


def make_entrance(given: Given, store: Store, outgoing: Outgoing, turns: Turns) -> tuple[Doors, Link]:
    """What comes in: messages, calls and reminders, and what a worker left behind."""
    options = given.options
    recovery = Recovery(
        store.sidecar,
        store.lease,
        Watches(store.state, options.app_id),
        f"{options.app_id}-watch",
        redrive_seconds=options.redrive_seconds,
        recover=turns.wakes.recover,
        review=turns.wakes.review,
    )
    inbox = Inbox(
        given.bus,
        given.log,
        given.clock,
        outgoing.sender,
        turns.deliveries.deliver,
        outgoing.emitter.emit,
        outgoing.confirmations.add,
        outgoing.remote.confirm,
    )
    pings = Pings(store.sidecar, outgoing.sender)
    doors = Doors(
        options.app_id,
        turns.cells,
        turns.deliveries,
        inbox,
        pings,
        recovery,
        keeps_log=given.log is not None,
    )
    return doors, Link(options, store.sidecar, store.state, store.lease, recovery, pings, doors, given.lapse)
