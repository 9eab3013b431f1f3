"""Workers on Dapr that are broken on purpose, besides those of `controls`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable

from meshwright.core.errors import StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.stores.dapr.callbacks import AppCallbacks
from meshwright.engine.stores.dapr.outbox import Outbox, StoredActor
from meshwright.engine.stores.dapr.sidecar import Sidecar
from meshwright.engine.stores.dapr.watches import WatchList
from tests.support.faults import controls

ACK_FIRST = "ack before the commit"  # what the broker delivers is acknowledged, and taken a moment later
UNWATCHED = "commits that nobody watches"  # the watch list is never written: nobody is told "accepted"
UNPUBLISHED = "a kill behind a claim's commit"  # before anything of it is published
NO_CALLS = "calls of actors that all fail"  # as by a sidecar that has missed where actors are placed
HELD_SECONDS = 1.0


def break_on_purpose(control: str) -> None:
    """Break this process's host."""
    controls.break_on_purpose(control)
    if control == ACK_FIRST:
        acknowledge_first()
    if control == UNWATCHED:
        never_watch()
    if control == UNPUBLISHED:
        die_unpublished()
    if control == NO_CALLS:
        refuse_calls()


def acknowledge_first() -> None:
    """Tell the broker that a message is taken, and take it later."""
    on_topic = AppCallbacks.on_topic
    held: set[asyncio.Task[bool]] = set()

    async def take_later(self: AppCallbacks, pubsub: str, topic: str, data: bytes) -> bool:
        await asyncio.sleep(HELD_SECONDS)
        return await on_topic(self, pubsub, topic, data)

    async def acknowledge(self: AppCallbacks, pubsub: str, topic: str, data: bytes) -> bool:
        task = asyncio.create_task(take_later(self, pubsub, topic, data))
        held.add(task)
        task.add_done_callback(held.discard)
        return True

    setattr(AppCallbacks, "on_topic", acknowledge)  # noqa: B010 a callback of this process, replaced


def never_watch() -> None:
    """Let each commit become durable, and what watches it never."""

    def arm(self: WatchList, ref: ActorRef) -> Awaitable[None]:
        return asyncio.get_running_loop().create_future()

    setattr(WatchList, "arm", arm)  # noqa: B010


def die_unpublished() -> None:
    """Kill this process, as kill -9 does, once a claim is durable and nothing of it is published."""
    send = Outbox.send

    def die(self: Outbox, actor: StoredActor) -> None:
        new = [entry.item for entry in actor.outbox if not entry.is_started]
        if any(isinstance(item, Event) and item.event_type == "task.started" for item in new):
            os.kill(os.getpid(), signal.SIGKILL)
        send(self, actor)

    setattr(Outbox, "send", die)  # noqa: B010


def refuse_calls() -> None:
    """Let no call of an actor beyond this process succeed."""

    async def refuse(self: Sidecar, ref: ActorRef, method: str, body: bytes) -> bytes:
        raise StoreUnavailable(f"did not find address for actor {ref}")

    setattr(Sidecar, "invoke", refuse)  # noqa: B010
