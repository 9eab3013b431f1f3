"""The parts of a store on Dapr, and which needs which. A part knows only those above it."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.clock import Clock
from meshwright.events.logger import EventLogger
from meshwright.kernel.store import Receiver
from meshwright.messages import new_id
from meshwright.stores.dapr.broker import Broker
from meshwright.stores.dapr.callbacks import AppCallbacks
from meshwright.stores.dapr.documents import Documents
from meshwright.stores.dapr.leases import Lease, Watches
from meshwright.stores.dapr.outbox import Outbox, StoredActors
from meshwright.stores.dapr.recovery import Reactivation, Recovery
from meshwright.stores.dapr.shipping import EventShipper, LocalShipper, RemoteShipper
from meshwright.stores.dapr.sidecar import Options, Sidecar
from meshwright.stores.dapr.state import State


class Parts:
    """What a store on Dapr is made of; nothing is opened yet. `log` is there where this process keeps it."""

    def __init__(
        self,
        options: Options,
        receiver: Receiver,
        log: EventLogger | None,
        clock: Clock,
        taken_elsewhere: Sequence[str],
    ) -> None:
        sender, bus = new_id(), receiver.bus
        self.actors = StoredActors()
        self.sidecar = Sidecar(options.grpc_port, options.api_token)
        self.state = State(self.sidecar, options.namespace, patience_seconds=options.patience_seconds)
        self.documents = Documents(self.state)
        self.lease = Lease(options, self.state, self.sidecar, receiver.lease_lost)
        self.watches = Watches(self.state, self.lease, options.app_id)
        self.broker = Broker(self.sidecar, options, bus, sender, taken_elsewhere)
        self.shipper: EventShipper = RemoteShipper(self.broker, bus, sender)
        if log is not None:
            self.shipper = LocalShipper(self.broker, bus, sender, log)
        self.outbox = Outbox(receiver, self.sidecar, self.broker, self.shipper, self.actors, clock)
        self.reactivation = Reactivation(
            options, receiver, self.documents, self.lease, self.actors, self.outbox
        )
        self.recovery = Recovery(
            options, self.sidecar, self.lease, self.watches, self.actors, self.reactivation
        )
        self.callbacks = AppCallbacks(
            options, receiver, self.broker, self.shipper, self.outbox, self.recovery, clock
        )
