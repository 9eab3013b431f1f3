"""Presence: the agents of this process register, say that they are there, and are judged by their silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meshwright.core import topics
from meshwright.core.capability import Registration
from meshwright.core.encoding import encode
from meshwright.core.errors import NotFound
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.timers import Duty
from meshwright.mesh.orchestration.registry import Registry, StatusChange
from meshwright.mesh.orchestration.scoring import AttemptEnd, counts, recent_outcomes

if TYPE_CHECKING:
    from aiohttp import ClientSession


_PROBE_TIMEOUT_SECONDS = 3.0
_KEEP_SECONDS = 15.0
_MAX_PROBES = 32  # at once


class HealthProbes:
    """Probes the health-check URLs of all registered agents. Owns one HTTP session; close it.

    A URL is healthy when it answers with a status below 400. Answers are kept for `keep_seconds`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        timeout_seconds: float = _PROBE_TIMEOUT_SECONDS,
        keep_seconds: float = _KEEP_SECONDS,
    ) -> None:
        self._registry = registry
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        self._answers: dict[str, tuple[float, str | None]] = {}
        self._limit = asyncio.Semaphore(_MAX_PROBES)
        self._session: ClientSession | None = None

    async def probe_all(self) -> list[StatusChange]:
        """Probe URLs without a fresh answer, tell the registry, and return which agents' health changed."""
        urls_of = {
            agent.agent_id: [str(url) for url in agent.health_check_urls] for agent in self._registry.agents()
        }
        urls = {url for needed in urls_of.values() for url in needed}
        problems = dict(zip(urls, await asyncio.gather(*map(self._problem, urls)), strict=True))
        self._answers = {url: answer for url, answer in self._answers.items() if url in urls}
        changes = []
        for agent_id, needed in urls_of.items():
            problem = "; ".join(text for url in needed if (text := problems[url])) or None
            changes.append(self._registry.set_problem(agent_id, problem))
        return [change for change in changes if change is not None]

    async def close(self) -> None:
        """Give back the connections."""
        if self._session is not None:
            await self._session.close()

    async def _problem(self, url: str) -> str | None:
        kept_until, problem = self._answers.get(url, (0.0, None))
        if time.monotonic() < kept_until:
            return problem
        async with self._limit:
            problem = await self._probe(url)
        self._answers[url] = (time.monotonic() + self._keep_seconds, problem)
        return problem

    async def _probe(self, url: str) -> str | None:
        from aiohttp import ClientError, ClientSession, ClientTimeout

        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_seconds))
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                return None if response.status < 400 else f"{url} answered {response.status}"
        except TimeoutError:
            return f"{url} did not answer within {self._timeout_seconds:g} s"
        except (ClientError, OSError) as error:
            return f"{url} cannot be reached: {error or type(error).__name__}"


_ROLL_CALL = "agent.roll_call"
"""A process has come, and asks who is there."""
CHECK_SECONDS = 5.0  # between looks at who has gone silent, and probes of what agents depend on


class Presence:
    """Keeps the registry true: who is here, who is silent, whose dependencies answer, who succeeded.

    `registrations` belong to this process.
    """

    def __init__(
        self,
        runtime: Runtime,
        log: EventLog,
        registry: Registry,
        registrations: Sequence[Registration],
        *,
        heartbeat_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._registry = registry
        self.registrations = registrations
        self._probes = HealthProbes(registry)
        self._duties = (
            Duty(runtime.clock, heartbeat_seconds, self._beat, "heartbeat"),
            Duty(runtime.clock, CHECK_SECONDS, self._check, "presence"),
        )
        for registration in registrations:  # before the runtime starts: recovered tasks may ask at once
            registry.register(registration)
        runtime.listen(topics.TASK_RESULTS, self._count, sealed=True)
        runtime.listen(topics.AGENTS, self._hear)

    async def start(self) -> None:
        """Tell the mesh who is here, and go on telling."""
        for agent_id, capability, success in await self._log.view(recent_outcomes):
            self._registry.record(agent_id, capability, success)
        await self._runtime.emit(
            [self._event("agent.registered", own.agent_id, own) for own in self.registrations]
        )
        self._runtime.broadcast(self._event(_ROLL_CALL, "", {}))
        for duty in self._duties:
            await duty.start()

    async def stop(self) -> None:
        """Stop telling."""
        for duty in self._duties:
            await duty.stop()
        await self._probes.close()

    def renew(self, registrations: Sequence[Registration]) -> None:
        """Change how the agents of this process are described; other processes learn it by the next beat."""
        self.registrations = registrations
        for registration in registrations:
            self._registry.renew(registration)

    async def _beat(self) -> None:
        self._see_own()
        self._answer()

    async def _check(self) -> None:
        self._see_own()  # a machine that slept has missed its own beats, and is there
        changes = [*self._registry.refresh(), *await self._probes.probe_all()]
        if changes:
            await self._runtime.emit(
                [self._event(change.event_type, change.agent_id, change.payload) for change in changes]
            )

    def _answer(self) -> None:
        """Publish all agents of this process in full, for processes that joined since."""
        for registration in self.registrations:
            self._runtime.broadcast(self._event("agent.heartbeat", registration.agent_id, registration))

    def _see_own(self) -> None:
        for registration in self.registrations:
            self._registry.heartbeat(registration.agent_id)

    def _event(self, event_type: str, agent_id: str, payload: Any) -> Event:
        return Event(
            id=f"{agent_id}/{self._runtime.incarnation}/{new_id()}",
            event_type=event_type,
            topic=topics.AGENTS,
            time=self._runtime.clock.now(),
            agent_id=agent_id,
            aggregate_id=f"agent/{agent_id}",
            payload=payload,
        )

    def _count(self, event: Event) -> None:
        end = AttemptEnd.model_validate_json(encode(event.payload))
        if counts(end):
            self._registry.record(end.agent_id, end.capability, end.success)

    def _hear(self, event: Event) -> None:
        if self._runtime.incarnation in event.id:
            return
        if event.event_type == _ROLL_CALL:
            self._answer()
        elif event.event_type == "agent.registered":
            self._register(event.payload)
        elif event.event_type == "agent.heartbeat" and event.agent_id is not None:
            try:
                self._registry.heartbeat(event.agent_id, event.time)
                if event.payload:
                    self._registry.renew(_read_registration(event.payload))
            except NotFound:  # it was there before this process
                if event.payload:
                    self._register(event.payload)

    def _register(self, payload: Any) -> None:
        registration = _read_registration(payload)
        if registration.agent_id not in {own.agent_id for own in self.registrations}:
            self._registry.register(registration)


def _read_registration(payload: Any) -> Registration:
    return payload if isinstance(payload, Registration) else Registration.model_validate(payload)
