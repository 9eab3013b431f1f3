"""The port to a channel, what a channel asks of the host, and the limits that both keep to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshwright.envelope import ActorRef
from meshwright.errors import ConfigError

LOOPBACK = "127.0.0.1"
TOKEN_HEADER = "dapr-api-token"
SEND_BYTES = 4 * 1024 * 1024
"""Of what we send to daprd: its own limit, where it is started without `--max-body-size`."""
RECEIVE_BYTES = 32 * 1024 * 1024
"""Of what daprd sends to us. A longer call would end the stream of calls, a longer message never be taken:
the limits of daprd and of the broker have to be well below."""
RAW = {"rawPayload": "true"}
"""Metadata of every subscription: what daprd cannot read it hands over, and does not hold for ever."""
STOP_SECONDS = 10.0
"""What callbacks under way have to end, once a channel stops."""
ANSWER_SECONDS = 1
"""What the answers of callbacks that have ended have to leave."""


@dataclass(frozen=True, slots=True)
class Route:
    """A topic of a pub/sub component that daprd is to deliver to this app.

    `topic` is as the component's broker wants it: `$share/mesh/bus/default/task-results`, `bus/default/#`.
    Where the channel can, messages of one that is `grouped` come together that arrive while others are under
    way, which costs half as much; each is still acked for itself, once all of its group have an end.
    """

    pubsub: str
    topic: str
    grouped: bool = False


class App(Protocol):
    """What a channel calls: the host."""

    @property
    def actor_types(self) -> Mapping[str, Sequence[str]]:
        """The names of the turns of each type of actor. CALL and DELIVER are there besides."""
        ...

    @property
    def routes(self) -> Sequence[Route]:
        """What daprd is to deliver."""
        ...

    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        """Take a message: True acks it, False or an exception asks for it again.

        `topic` is the one that it was published on. `data` is a CloudEvent's data (as JSON where that is
        what it holds), or all the bytes of a message that is none. Only what can be taken later may be
        answered with False: a message that never can be taken would hold its place with the broker for ever.
        """
        ...

    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn, or CALL or DELIVER with an encoded message as the body. JSON in, JSON out.

        What it raises reaches the caller: see `decode_reply`.
        """
        ...

    async def on_reminder(self, ref: ActorRef, name: str) -> None:
        """Take the tick of a reminder; after an exception daprd comes again, three times."""
        ...


class Channel(Protocol):
    """Carries daprd's calls to an app. One channel, one app; once stopped it stays so."""

    name: str
    """"grpc" or "http", as `--app-protocol` of daprd has to say."""
    port: int
    """The app port; where 0 was asked for, known once `listen` has returned."""

    async def listen(self, app: App) -> None:
        """Open the app port, on loopback; daprd may be up or not yet. Topics flow from here on.

        Raises ConfigError where the port cannot be had.
        """
        ...

    async def serve_actors(self) -> None:
        """Take actor calls and reminders, now that daprd is up: none comes before. Raises ConfigError or
        StoreUnavailable where the sidecar does not take them.

        From then on the channel finds a sidecar that was away by itself, however long it was.
        """
        ...

    async def stop(self) -> None:
        """Take nothing new, let the callbacks under way end within STOP_SECONDS, and close the port."""
        ...


def port_taken(port: int, error: Exception) -> ConfigError:
    """What to raise where the app port cannot be had."""
    return ConfigError(
        f"the app port {port} cannot be listened on: {error}",
        remedy="end what uses it, or give the worker and its sidecar another",
        field="APP_PORT",
    )
