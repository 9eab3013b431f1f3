"""Our actors as the Dapr SDK knows them: a class for each type, a method for each turn, plain JSON through.

The SDK's ActorRuntime is one for the process, and two hosts may live in one. So a class is of no host: it
asks `hosted`, which each channel sets for whatever runs its callbacks.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

from dapr.actor import Actor, ActorInterface, ActorRuntime, Remindable, actormethod
from dapr.actor.runtime.config import ActorRuntimeConfig
from dapr.clients.base import DaprActorClientBase
from dapr.clients.exceptions import DaprInternalError
from dapr.serializers import Serializer

from meshwright.envelope import ActorRef
from meshwright.hosts.dapr.channels.callbacks import Callbacks
from meshwright.hosts.dapr.channels.replies import CALL, DELIVER

hosted: ContextVar[Callbacks] = ContextVar("hosted")
"""The app that daprd has called in this context."""

# Turns reach daprd through the host. The SDK would make a client, and block until daprd is up.
NO_CLIENT = cast(DaprActorClientBase, object())


class PlainBodies(Serializer):
    """Passes bodies through. The SDK's own makes a timedelta of "5m" and a date of what begins like one."""

    def serialize(self, obj: object, custom_hook: Callable[[object], bytes] | None = None) -> bytes:
        """A reply, which is bytes already."""
        return cast(bytes, obj)

    def deserialize(
        self, data: bytes, data_type: Any = object, custom_hook: Callable[[bytes], object] | None = None
    ) -> Any:
        """The body of a turn as it is. What comes with a reminder is not read: it may be anybody's."""
        return {"dueTime": "", "period": ""} if data_type is object else data


class TurnFailed(DaprInternalError):
    """What somebody is told who called a turn by its name: the error's name and what it says."""

    def __str__(self) -> str:
        return f"{self.error_code}: {self.message}"


class HostedTypes(ActorRuntimeConfig):
    """What daprd is told of our actors: the types of the app at hand, not all that the process knows."""

    @property
    def entities(self) -> frozenset[str]:
        """The types, as the stream announces them."""
        return frozenset(hosted.get().actor_types)

    def as_dict(self) -> dict[str, Any]:
        """The whole, as `/dapr/config` shows it."""
        return super().as_dict() | {"entities": sorted(self.entities)}


async def register(types: Mapping[str, Sequence[str]]) -> None:
    """Make types of actors known to the SDK, each with the names of its turns. Again replaces a type.

    Raises ValueError where a turn has a name that the hosts use.
    """
    ActorRuntime.set_actor_config(HostedTypes())
    for kind, turns in types.items():
        bodies = PlainBodies()
        await ActorRuntime.register_actor(actor_class(kind, turns), bodies, bodies, actor_client=NO_CLIENT)


def actor_class(kind: str, turns: Sequence[str]) -> type[Actor]:
    """The SDK's class of a type of actor: any Dapr client may call a turn by its name, with plain JSON."""
    for name in (CALL, DELIVER):
        if name in turns:
            raise ValueError(f"{kind} has a turn named {name!r}, which hosts on Dapr call one another by")
    methods = {name: _plain(kind, name) for name in turns}
    methods |= {name: _between_hosts(kind, name) for name in (CALL, DELIVER)}
    # The prefix keeps turns apart from what the SDK's Actor has itself.
    offered = {f"take_{name}": actormethod(name=name)(_plain(kind, name)) for name in methods}
    interface = ABCMeta(f"{kind}Turns", (ActorInterface,), offered)
    members: dict[str, Any] = {f"take_{name}": method for name, method in methods.items()}
    members["receive_reminder"] = _reminder(kind)
    return cast(type[Actor], ABCMeta(kind, (Actor, interface, Remindable), members))


def _plain(kind: str, name: str) -> Callable[[Actor, bytes], Awaitable[bytes]]:
    async def take(self: Actor, body: bytes) -> bytes:
        try:
            return await hosted.get().turn(ActorRef(kind, self.id.id), name, body)
        except Exception as error:  # what a turn raises is its caller's
            raise TurnFailed(str(error), type(error).__name__) from error

    return take


def _between_hosts(kind: str, name: str) -> Callable[[Actor, bytes], Awaitable[bytes]]:
    async def take(self: Actor, body: bytes) -> bytes:
        return await hosted.get().call(ActorRef(kind, self.id.id), name, body)

    return take


def _reminder(kind: str) -> Callable[..., Awaitable[None]]:
    async def receive_reminder(self: Actor, name: str, *_: object) -> None:
        await hosted.get().reminder(ActorRef(kind, self.id.id), name)

    return receive_reminder
