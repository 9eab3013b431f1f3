"""The link to Dapr: sidecar, channel, store, lease and watch list of a worker, opened and closed in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from meshwright.errors import ConfigError, HostError, StoreUnavailable
from meshwright.hosts.dapr.channels import choose, make_channel
from meshwright.hosts.dapr.channels.port import Channel
from meshwright.hosts.dapr.doors import Doors
from meshwright.hosts.dapr.kick import kick
from meshwright.hosts.dapr.lease import Lease
from meshwright.hosts.dapr.naming import naming_for
from meshwright.hosts.dapr.options import Options
from meshwright.hosts.dapr.ping import Pings
from meshwright.hosts.dapr.recovery import Recovery
from meshwright.hosts.dapr.sidecar import BUS, STATE, VIEWS, Facts, Sidecar
from meshwright.hosts.dapr.state import State
from meshwright.hosts.dapr.watch import WatchList

logger = logging.getLogger("meshwright.dapr")

READY_RETRY_SECONDS = 0.02
PING_SECONDS = 10.0
ANEW_RETRY_SECONDS = 1.0


class Link:
    """Everything between a host and Dapr.

    `on_lapsed` is called where the lease was not renewed in time, or another has taken this worker for gone.
    """

    def __init__(
        self,
        options: Options,
        sidecar: Sidecar,
        state: State,
        lease: Lease,
        recovery: Recovery,
        pings: Pings,
        doors: Doors,
        on_lapsed: Callable[[], None],
    ) -> None:
        self._options = options
        self._sidecar = sidecar
        self._state = state
        self._lease = lease
        self._recovery = recovery
        self._pings = pings
        self._doors = doors
        self._on_lapsed = on_lapsed
        self._watch: WatchList | None = None
        self._channel: Channel | None = None
        self._following: asyncio.Task[None] | None = None
        self._is_mqtt = True
        self._has_predecessor = False

    async def open(self, incarnation: str) -> WatchList:
        """Meet the sidecar, let it call us, take a lease, and open a watch list."""
        self._sidecar.connect()
        facts = await self._sidecar.wait_until_ready(self._options.ready_seconds)
        check(facts)
        self._is_mqtt = "mqtt" in facts.components[BUS]
        self._doors.naming = naming_for(facts.components[BUS], self._options.namespace)
        self._channel = make_channel(
            choose(facts.version) if self._options.channel == "auto" else self._options.channel,
            app_port=self._options.app_port,
            sidecar_port=self._options.grpc_port,
            api_token=self._options.api_token,
            app_token=self._options.app_token,
        )
        await self._channel.listen(self._doors)
        await self._state.probe()
        return await self._open_list(incarnation)

    async def serve(self) -> None:
        """Take actor calls and what the broker kept, see that it delivers, and wake what is open."""
        assert self._channel is not None
        await self._channel.serve_actors()
        async with asyncio.timeout(self._options.ready_seconds):
            while not (await self._sidecar.facts()).actors_ready:  # noqa: ASYNC110 daprd tells nobody
                await asyncio.sleep(READY_RETRY_SECONDS)
        if self._has_predecessor:  # for whom the broker may have kept something
            await self._kick()
        if not await self._pings.prove(self._doors.examples, PING_SECONDS):
            logger.warning("the broker does not deliver yet: what is sent meanwhile is sent again later")
        self._recovery.start()
        self._following = asyncio.create_task(self._follow_sidecar(), name="sidecar")

    async def _follow_sidecar(self) -> None:
        """A sidecar that was away has missed what the broker kept for it."""
        while True:
            await self._sidecar.has_come_back()
            logger.info("the sidecar is back")
            try:
                await self._sidecar.wait_until_ready(self._options.ready_seconds)
                await self._pings.prove(self._doors.examples, PING_SECONDS)  # it has subscribed again
                await self._kick()
            except HostError as error:
                logger.warning("what the broker kept may come late: %s", error)

    async def begin_anew(self, incarnation: str) -> WatchList:
        """Go on as another incarnation, as soon as the store answers."""
        await self._recovery.stop()
        if self._watch is not None:
            self._watch.close(StoreUnavailable("the worker has begun anew"))
        await self._lease.stop(give_back=False)
        while True:
            try:
                watch = await self._open_list(incarnation)
                break
            except HostError as error:
                logger.warning("the worker cannot begin anew yet: %s", error)
                await asyncio.sleep(ANEW_RETRY_SECONDS)
        self._recovery.start()
        return watch

    async def drain(self) -> None:
        """Let nothing new in."""
        await self._recovery.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            self._following = None
        if self._channel is not None:
            await self._channel.stop()
            self._channel = None

    async def close(self, *, say_goodbye: bool = True) -> None:
        """Give the lease back and let go. What is open stays on the list for whoever comes next."""
        await self.drain()
        if say_goodbye:
            await self._close_list()
        if self._watch is not None:
            self._watch.close(StoreUnavailable("the worker has stopped"))
        await self._lease.stop(give_back=say_goodbye and self._watch is not None)
        self._watch = None
        self._state.cancel()
        await self._sidecar.close()

    async def _open_list(self, incarnation: str) -> WatchList:
        self._has_predecessor = await self._lease.succeed(self._options.replica, incarnation)
        await self._lease.take(incarnation)
        self._watch = WatchList(self._state, incarnation, self._on_lapsed)
        await self._recovery.open(self._watch)
        self._lease.keep(self._on_lapsed)
        return self._watch

    async def _close_list(self) -> None:
        try:
            await self._recovery.close()
        except HostError as error:
            logger.warning("the watch list stays, and is closed by whoever comes next: %s", error)

    async def _kick(self) -> None:
        """Have the broker send again what daprd may have missed."""
        if self._options.broker_url and self._is_mqtt:
            try:
                await kick(self._options.broker_url, f"{self._options.app_id}-{self._options.replica}")
            except StoreUnavailable as error:
                logger.warning("what the broker kept may come late: %s", error)


def check(facts: Facts) -> None:
    """Raise ConfigError where the sidecar lacks a component."""
    missing = [name for name in (STATE, BUS, VIEWS) if name not in facts.components]
    if missing:
        raise ConfigError(
            f"the sidecar has no component named {', '.join(missing)}",
            remedy="start daprd with the files of components/ as its --resources-path",
            field="components",
        )
