"""The component: a follower of the log for each sink of the settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

from meshwright import Event
from meshwright.component import Caller, Component, Figure, Mesh
from meshwright.core.encoding import Json
from meshwright.edges.outgoing import HttpPool
from meshwright.edges.replies import table
from meshwright.edges.replies.table import SenderKey
from meshwright.engine.events.rows import event_of, unfolded
from meshwright.kit import Backoff, Duty, HostError, Role, Session
from meshwright.mesh.components import Check
from meshwright.parts.sinks.event_types import SinkDelayed
from meshwright.parts.sinks.mlflow import (
    EXPERIMENT_STOPPED,
    MlflowSink,
    ResultsRun,
    run_of_evaluation,
    run_of_experiment,
)
from meshwright.parts.sinks.port import AgentaSink, LangfuseSink, Refused, Sink, SinkServer
from meshwright.parts.sinks.settings import SinkSettings, SinksSettings


class Sinks(Component):
    """Services for experiments, evaluations and prompts get what they want of the event log."""

    name = "sinks"
    config: SinksSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._followers: dict[str, Follower] = {}
        self._checked: dict[str, tuple[Sink, HttpPool]] = {}
        for name, settings in self.config.items():
            http = HttpPool(networks=settings.networks)
            sink = self._sink(name, settings, http)
            self._checked[name] = sink, http
            if mesh.role.is_front:
                self._followers[name] = Follower(mesh, name, settings, sink, http)
        self.parts += self._followers.values()

    def _sink(self, name: str, settings: SinkSettings, http: HttpPool) -> Sink:
        server = SinkServer(name, settings, http)
        if settings.kind == "langfuse":
            return LangfuseSink(server, contents=settings.contents)
        if settings.kind == "agenta":
            return AgentaSink(server, settings.application, self._text_of)
        find, contents = self.mesh.log.query_task, settings.contents
        return MlflowSink(server, settings.experiment, find, self._results_of, contents=contents)

    async def _results_of(self, event: Event) -> ResultsRun:
        """The results of what an event says has ended, as they are now. Raises NotFound."""
        caller = Caller(tenant_id=event.tenant_id, roles=frozenset({Role.VIEWER}))
        if event.event_type == EXPERIMENT_STOPPED:
            from meshwright.parts.experiments.event_types import ExperimentStopped
            from meshwright.parts.experiments.operations import Experiments

            experiment_id = ExperimentStopped.from_payload(event.payload).experiment_id
            return run_of_experiment(await self.mesh.get(Experiments).results(caller, experiment_id))
        from meshwright.parts.evaluations.event_types import EvaluationEnded
        from meshwright.parts.evaluations.operations import Evaluations

        evaluation_id = EvaluationEnded.from_payload(event.payload).evaluation_id
        return run_of_evaluation(await self.mesh.get(Evaluations).show(caller, evaluation_id))

    async def _text_of(self, tenant_id: str, name: str, version: int) -> str:
        from meshwright.parts.llmops.table import find

        return (await self.mesh.database.read(find, tenant_id, name, version)).row.text

    async def begin(self) -> None:
        """Send what they lack."""
        for follower in self._followers.values():
            await follower.begin()

    def checks(self) -> Iterable[Check]:
        """Whether each service lets us in."""
        return [Check(f"sink {name}", partial(self._check, name)) for name in self._checked]

    async def _check(self, name: str) -> str:
        sink, http = self._checked[name]
        try:
            return await sink.check()
        finally:
            await http.stop()

    def figures(self) -> Iterable[Figure]:
        """How far each is behind, and whether it is away."""
        followers = self._followers
        return [
            Figure(
                "behind",
                "Events of the log that a sink has not got yet.",
                lambda: {name: one.behind for name, one in followers.items()},
                "sink",
            ),
            Figure(
                "down",
                "Whether the last try to reach a sink failed.",
                lambda: {name: int(one.is_down) for name, one in followers.items()},
                "sink",
            ),
        ]


_logger = logging.getLogger("meshwright.sinks")
_SCHEME = "sink"
_LOOK_SECONDS = 0.5
_AT_ONCE = 50  # events that are read, and whose position is stored together
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 300.0


class Follower:
    """Gives a sink the events that it wants, each at least once. A part of a component.

    They are sent in their order; to a sink that takes several in `parallel`, those of each task are.

    It begins behind the newest event when it is started for the first time. Of several processes on one
    database one sends. While the sink is away the position stays, and nothing is held in memory.
    """

    def __init__(self, mesh: Mesh, name: str, settings: SinkSettings, sink: Sink, http: HttpPool) -> None:
        self.sink = sink
        self._mesh = mesh
        self._name = name
        self._settings = settings
        self._http = http
        self._key = SenderKey(_SCHEME, name)
        self._position = self._newest = 0
        self._pauses = Backoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        self._retry_at = mesh.runtime.clock.now()
        self._looking = Duty(mesh.runtime.clock, _LOOK_SECONDS, self._look, f"sink {name}")

    @property
    def behind(self) -> int:
        """How many events of the log it has not looked at, or could not send."""
        return max(0, self._newest - self._position)

    @property
    def is_down(self) -> bool:
        """Whether the last try failed."""
        return self._pauses.failures > 0

    async def start(self) -> None:
        """Note where it begins."""
        await self._http.start()
        self._newest = await self._mesh.log.last_seq()
        state = await self._mesh.database.write(table.begin, self._key, self._newest)
        self._position = state.seq

    async def begin(self) -> None:
        """Go on behind the position. Idempotent."""
        await self._looking.start()

    async def stop(self) -> None:
        """Send no more. Idempotent."""
        await self._looking.stop()
        await self._http.stop()

    async def _look(self) -> None:
        """Send what is new, while no other process does."""
        self._newest = await self._mesh.log.last_seq()
        while await self._owns() and self.behind and self._mesh.runtime.clock.now() >= self._retry_at:
            await self._send_next()
            self._newest = await self._mesh.log.last_seq()

    async def _owns(self) -> bool:
        database, runtime = self._mesh.database, self._mesh.runtime
        progress = await database.read(table.progress, self._key)
        assert progress is not None
        self._position = progress.seq
        if progress.owner == runtime.incarnation:
            return True
        if progress.owner and not await runtime.has_expired(progress.owner):
            return False
        return await database.write(table.own, self._key, runtime.incarnation, progress.owner)

    async def _send_next(self) -> None:
        newest = self._newest
        events = await self._mesh.database.read(
            _events_behind, self._position, newest, self.sink.event_types, _AT_ONCE
        )
        sent: set[int | None] = set()
        failures: dict[int | None, Exception] = {}
        limit = asyncio.Semaphore(self.sink.parallel)

        async def send(chain: Sequence[Event]) -> None:
            async with limit:
                for event in chain:
                    if failures:
                        return
                    if (error := await self._error_of(event)) is not None:
                        failures[event.seq] = error
                        return
                    sent.add(event.seq)

        try:
            await asyncio.gather(*map(send, self._chains(events)))
        finally:
            await self._reach(events, sent, newest)
        if sent:
            self._pauses.reset()
        for event in events:
            if event.seq in failures:
                return self._put_off(event, failures[event.seq])

    def _chains(self, events: Sequence[Event]) -> Iterable[list[Event]]:
        """Events in the order in which they are sent: those of each task, or all together."""
        chains: dict[str, list[Event]] = {}
        for event in events:
            key = event.task_id or event.id if self.sink.parallel > 1 else ""
            chains.setdefault(key, []).append(event)
        return chains.values()

    async def _reach(self, events: Sequence[Event], sent: Collection[int | None], newest: int) -> None:
        """Store the position behind the last event before which all are sent."""
        reached = self._position if len(events) == _AT_ONCE or len(sent) < len(events) else newest
        for event in events:
            if event.seq not in sent:
                break
            reached = max(reached, event.seq or 0)
        if reached != self._position:
            self._position = reached
            with suppress(HostError):  # the runtime reports it itself; some events arrive twice then
                await self._mesh.database.write(table.reach, self._key, reached)

    async def _error_of(self, event: Event) -> Exception | None:
        """Why the sink could not take an event now; None where it has it, never will, or does not want it."""
        agents = self._settings.agents if event.task_id is not None else ()
        if event.tenant_id != self._settings.tenant or (agents and event.agent_id not in agents):
            return None
        try:
            await self.sink.take(event)
        except Refused as error:
            self._tell("sink.refused", event, str(error))
        except Exception as error:  # noqa: BLE001 a sink's errors are its own: any is a reason to try again
            return error
        return None

    def _put_off(self, event: Event, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if not self.is_down:
            self._tell("sink.delayed", event, reason)
        requested = getattr(error, "retry_after_seconds", None) or 0.0
        pause = max(self._pauses.next(), requested)
        self._retry_at = self._mesh.runtime.clock.now() + timedelta(seconds=pause)
        _logger.info("Sink %s gets nothing now, next try in %.1f s: %s", self._name, pause, reason)

    def _tell(self, event_type: str, event: Event, reason: str) -> None:
        payload = SinkDelayed(sink=self._name, seq=event.seq, reason=reason)
        self._mesh.tell(event_type, payload, tenant_id=event.tenant_id)


def _events_behind(session: Session, seq: int, last: int, types: Collection[str], limit: int) -> list[Event]:
    return [event_of(row, Json) for row in unfolded(session, seq, last, types, limit)]
