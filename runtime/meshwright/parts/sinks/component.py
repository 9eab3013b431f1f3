"""The component: a follower of the log for each sink of the settings."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from meshwright import Event
from meshwright.component import Caller, Component, Figure, Mesh
from meshwright.edges.outgoing_requests import HttpPool
from meshwright.kit import Role
from meshwright.mesh.components import Check
from meshwright.parts.sinks.follower import Follower
from meshwright.parts.sinks.mlflow import (
    EXPERIMENT_STOPPED,
    MlflowSink,
    ResultsRun,
    run_of_evaluation,
    run_of_experiment,
)
from meshwright.parts.sinks.port import AgentaSink, LangfuseSink, Sink, SinkServer
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
            return AgentaSink(server, settings.application, self._prompt_text)
        find, contents = self.mesh.log.query_task, settings.contents
        return MlflowSink(server, settings.experiment, find, self._read_results, contents=contents)

    async def _read_results(self, event: Event) -> ResultsRun:
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

    async def _prompt_text(self, tenant_id: str, name: str, version: int) -> str:
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
