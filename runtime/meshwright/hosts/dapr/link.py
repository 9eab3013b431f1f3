"""The link to Dapr: sidecar, channel, store, lease and watch list of a worker, opened and closed in order."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter

from meshwright.envelope import ActorRef, Message
from meshwright.errors import ConfigError, HostError, StoreUnavailable
from meshwright.hosts.dapr.channels import choose, make_channel
from meshwright.hosts.dapr.channels.port import Channel
from meshwright.hosts.dapr.channels.replies import CALL, DELIVER, decode_reply
from meshwright.hosts.dapr.kick import kick
from meshwright.hosts.dapr.lease import Lease
from meshwright.hosts.dapr.naming import Naming, naming_for
from meshwright.hosts.dapr.options import Options
from meshwright.hosts.dapr.ping import Pings
from meshwright.hosts.dapr.recovery import Recovery
from meshwright.hosts.dapr.sidecar import BUS, STATE, VIEWS, Facts, Sidecar
from meshwright.hosts.dapr.state import State
from meshwright.hosts.dapr.watch import Watches, WatchList
from meshwright.turns import ActorKind

if TYPE_CHECKING:
    from meshwright.hosts.dapr.host import DaprHost

logger = logging.getLogger("meshwright.dapr")

READY_RETRY_SECONDS = 0.02
PING_SECONDS = 10.0
ANEW_RETRY_SECONDS = 1.0


class Link:
    """Everything between a host and Dapr."""

    def __init__(self, options: Options, host: DaprHost, sender: str) -> None:
        self._options = options
        self._host = host
        self.sidecar = Sidecar(options.grpc_port, options.api_token)
        self.pings = Pings(self.sidecar, sender)
        self.state = State(self.sidecar, options.namespace, patience_seconds=options.patience_seconds)
        self.lease = Lease(
            self.state,
            self.sidecar,
            lease_seconds=options.lease_seconds,
            renew_seconds=options.renew_seconds,
        )
        self.recovery = Recovery(
            self.sidecar,
            self.lease,
            Watches(self.state, options.app_id),
            f"{options.app_id}-watch",
            redrive_seconds=options.redrive_seconds,
            recover=host.recover,
            review=host.review,
        )
        self.naming: Naming = naming_for("pubsub.mqtt3", options.namespace)
        self.watch: WatchList | None = None
        self._channel: Channel | None = None
        self._elsewhere: dict[ActorRef, int] = {}
        self._returns: dict[tuple[str, str], TypeAdapter[Any]] = {}
        self._is_mqtt = True
        self._has_predecessor = False

    async def open(self) -> None:
        """Meet the sidecar, let it call us, take a lease, and open a watch list."""
        self.sidecar.connect()
        facts = await self.sidecar.wait_until_ready(self._options.ready_seconds)
        self._check(facts)
        self._is_mqtt = "mqtt" in facts.components[BUS]
        self.naming = naming_for(facts.components[BUS], self._options.namespace)
        name = choose(facts.version) if self._options.channel == "auto" else self._options.channel
        self._channel = make_channel(
            name,
            app_port=self._options.app_port,
            sidecar_port=self._options.grpc_port,
            api_token=self._options.api_token,
            app_token=self._options.app_token,
        )
        await self._channel.listen(self._host)
        await self.state.probe()
        await self._open_incarnation()

    async def serve(self) -> None:
        """Take actor calls, wake what is open, and take what the broker kept."""
        assert self._channel is not None
        await self._channel.serve_actors()
        async with asyncio.timeout(self._options.ready_seconds):
            while not (await self.sidecar.facts()).actors_ready:  # noqa: ASYNC110 daprd tells nobody
                await asyncio.sleep(READY_RETRY_SECONDS)
        if self._has_predecessor:  # for whom the broker may have kept something
            await self._kick()
        if not await self.pings.prove(
            [(component, self.naming.topic(topic)) for component, topic in self._host.topics], PING_SECONDS
        ):
            logger.warning("the broker does not deliver yet: what is sent meanwhile is sent again later")
        self.recovery.start()

    async def _kick(self) -> None:
        """Have the broker send again what daprd may have missed."""
        if self._options.broker_url and self._is_mqtt:
            try:
                await kick(self._options.broker_url, f"{self._options.app_id}-{self._options.replica}")
            except StoreUnavailable as error:
                logger.warning("what the broker kept may come late: %s", error)

    async def renew_incarnation(self) -> None:
        """Begin as the host's new incarnation, as soon as the store answers."""
        await self.recovery.stop()
        if self.watch is not None:
            self.watch.close(StoreUnavailable("the worker has begun anew"))
        await self.lease.stop(give_back=False)
        while True:
            try:
                await self._open_incarnation()
                break
            except HostError as error:
                logger.warning("the worker cannot begin anew yet: %s", error)
                await asyncio.sleep(ANEW_RETRY_SECONDS)
        self.recovery.start()

    async def drain(self) -> None:
        """Let nothing new in."""
        await self.recovery.stop()
        if self._channel is not None:
            await self._channel.stop()
            self._channel = None

    async def close(self, *, say_goodbye: bool = True) -> None:
        """Give the lease back and let go. What is open stays on the list for whoever comes next."""
        await self.drain()
        if say_goodbye:
            await self._close_list()
        if self.watch is not None:
            self.watch.close(StoreUnavailable("the worker has stopped"))
        await self.lease.stop(give_back=say_goodbye and self.watch is not None)
        self.watch = None
        self.state.cancel()
        await self.sidecar.close()

    async def _close_list(self) -> None:
        try:
            await self.recovery.close()
        except HostError as error:
            logger.warning("the watch list stays, and is closed by whoever comes next: %s", error)

    def disarm(self, ref: ActorRef) -> None:
        """Strike an actor off the watch list."""
        self._elsewhere.pop(ref, None)
        if self.watch is not None:
            self.watch.disarm(ref)

    def seen_elsewhere(self, ref: ActorRef, revision: int) -> bool:
        """Whether an actor was seen before at that revision, in the hands of another worker."""
        return self._elsewhere.get(ref) == revision or self._elsewhere.update({ref: revision}) is not None

    async def call(self, kind: ActorKind, message: Message) -> Any:
        """Run a turn of an actor of another app; its reply has the shape that the turn declares."""
        reply = decode_reply(await self.sidecar.invoke(message.to, CALL, message.encode()))
        return self._returned(kind, message.method).validate_python(reply)

    async def deliver(self, kind: ActorKind, message: Message) -> None:
        """Give a message to an actor that lives in another app."""
        decode_reply(await self.sidecar.invoke(message.to, DELIVER, message.encode()))

    def _returned(self, kind: ActorKind, method: str) -> TypeAdapter[Any]:
        known = self._returns.get((kind.type, method))
        if known is None:
            declared = kind.methods.get(method)
            hint = get_type_hints(declared.call).get("return", Any) if declared else Any
            known = self._returns[kind.type, method] = TypeAdapter(hint)
        return known

    async def _open_incarnation(self) -> None:
        incarnation = self._host.incarnation
        self._has_predecessor = await self.lease.succeed(self._options.replica, incarnation)
        await self.lease.take(incarnation)
        self.watch = WatchList(self.state, incarnation)
        await self.recovery.open(self.watch)
        self.lease.keep(self._host.lapse)

    def _check(self, facts: Facts) -> None:
        missing = [name for name in (STATE, BUS, VIEWS) if name not in facts.components]
        if missing:
            raise ConfigError(
                f"the sidecar has no component named {', '.join(missing)}",
                remedy="start daprd with the files of components/ as its --resources-path",
                field="components",
            )
