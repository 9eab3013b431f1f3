"""MLflow: a run for each task, experiment and evaluation that has ended.

A run is found again by a tag, and its metrics have the times of their events, so that a repeat changes
nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from meshwright.core.encoding import encode
from meshwright.core.errors import NotFound
from meshwright.core.messages import Event, Outcome
from meshwright.core.redaction import redact_data
from meshwright.core.topics import TASK_PROGRESS
from meshwright.edges.outgoing import TryLater
from meshwright.events.filter import EventFilter
from meshwright.orchestration.acceptance import FINAL
from meshwright.services.sinks.mlflow_api import MlflowApi, MlflowRun, metric
from meshwright.services.sinks.mlflow_results import ResultsRun
from meshwright.services.sinks.port import SCORED, Refused, SinkServer, score_of

Find = Callable[[EventFilter], Awaitable[Sequence[Event]]]
"""Finds events in the log."""
Results = Callable[[Event], Awaitable[ResultsRun]]
"""The results of the experiment or the evaluation that an event is of. Raises NotFound."""
EXPERIMENT_STOPPED, EVALUATION_ENDED = "experiment.stopped", "evaluation.ended"
_GROUPS = {EXPERIMENT_STOPPED: "experiments", EVALUATION_ENDED: "evaluations"}
_PARENT = "mlflow.parentRunId"
_MAX_LATE = 200  # events of a task behind the one that ended it
_STATES = {"succeeded": "FINISHED", "failed": "FAILED", "timed_out": "FAILED", "cancelled": "KILLED"}


class MlflowSink:
    """Makes a run of each end of a task, with its figures as metrics, and adds its scores as they come.

    Experiments and evaluations have MLflow experiments of their own: `NAME-experiments`, in which the run of
    one has a run below it for each variant, and `NAME-evaluations`.
    """

    event_types: Collection[str] = (*FINAL, SCORED, *_GROUPS)
    parallel = 8  # a run takes five requests, one after another

    def __init__(
        self, server: SinkServer, experiment: str, find: Find, results: Results, *, contents: bool
    ) -> None:
        self._api = MlflowApi(server)
        self._shown = server.shown
        self._experiment = experiment
        self._find = find
        self._results = results
        self._contents = contents

    async def take(self, event: Event) -> None:
        """Write the run of an end, or a score into that of its task. Raises Refused, TryLater."""
        try:
            if event.event_type == SCORED:
                await self._take_score(event)
            elif event.event_type in _GROUPS:
                await self._take_results(event)
            else:
                await self._take_end(event)
        except TryLater:
            self._api.forget()
            raise

    async def check(self) -> str:
        """Returns what becomes of the experiment. Raises TryLater."""
        experiment = await self._api.find_experiment(self._experiment)
        goes = "has" if experiment else "makes"
        return f"{self._shown} {goes} the experiment {self._experiment!r}"

    async def _take_results(self, event: Event) -> None:
        try:
            results = await self._results(event)
        except NotFound as error:  # it was deleted meanwhile
            raise Refused(str(error)) from None
        experiment_id = await self._api.experiment_id(f"{self._experiment}-{_GROUPS[event.event_type]}")
        await self._write(experiment_id, f"{event.tenant_id}/{event.id}", results, event, {})

    async def _write(
        self, experiment_id: str, key: str, results: ResultsRun, event: Event, above: Mapping[str, str]
    ) -> None:
        """Write a run and those below it, each whole before it ends; one that has ended is whole."""
        run = await self._api.find_run(experiment_id, key)
        if run is not None and not run.is_open:
            return
        if run is None:
            tags = {**results.tags, **above, "meshwright.tenant": event.tenant_id}
            run = await self._api.create_run(experiment_id, key, results.name, results.started_at, tags)
        for part in results.parts:
            await self._write(experiment_id, f"{key}/{part.name}", part, event, {_PARENT: run.run_id})
        metrics = [metric(name, value, event.time) for name, value in results.metrics.items()]
        await self._api.log(run, metrics=metrics, params=results.params)
        if results.document:
            await self._api.put_artifact(run, "results.json", results.document)
        await self._api.end(run, "FINISHED", event.time)

    async def _take_score(self, event: Event) -> None:
        """Add a score to the last end of its task; one that is open brings it along when it ends."""
        of_task = {"tenant_id": event.tenant_id, "task_id": event.task_id}
        events = await self._find(EventFilter(topic=TASK_PROGRESS, order="desc", limit=_MAX_LATE, **of_task))
        end = next((other for other in events if other.event_type in FINAL), None)
        if end is not None and (run := await self._take_end(end, is_new=False)) is not None:
            await self._api.log(run, metrics=_scores([event]))

    async def _take_end(self, event: Event, *, is_new: bool = True) -> MlflowRun | None:
        """Write the run of an end, and make it where it is missing; None for one that was erased.

        A run that is there is whole where the end is not a new one.
        """
        try:
            outcome = Outcome.model_validate(event.fields)
        except ValueError:  # its contents were erased
            return None
        key = f"{event.tenant_id}/{outcome.task_id}/{outcome.generation}"
        experiment_id = await self._api.experiment_id(self._experiment)
        run = await self._api.find_run(experiment_id, key)
        if run is not None and not is_new:
            return run
        run = run or await self._create_run(experiment_id, key, event, outcome)
        of_task = {"tenant_id": event.tenant_id, "task_id": event.task_id}
        scored = await self._find(EventFilter(event_type=SCORED, before_seq=event.seq, **of_task))
        early = scored if outcome.generation == 1 else ()  # later ones are of the end that they followed
        metrics = [*_metrics(event, outcome), *_scores(early)]
        await self._api.log(run, metrics=metrics, params=_params(outcome))
        if self._contents:
            await self._api.put_artifact(run, "outcome.json", encode(redact_data(event.fields)))
        await self._api.end(run, _STATES[outcome.status], event.time)
        return run

    async def _create_run(self, experiment_id: str, key: str, event: Event, outcome: Outcome) -> MlflowRun:
        of_task = {"tenant_id": event.tenant_id, "task_id": event.task_id}
        accepted = await self._find(EventFilter(event_type="task.accepted", limit=1, **of_task))
        tags = _tags(event, outcome, accepted[0].fields if accepted else {})
        started_at = event.time - timedelta(milliseconds=outcome.duration_ms)
        name = f"{outcome.agent_id} {outcome.task_id[-6:]}"
        return await self._api.create_run(experiment_id, key, name, started_at, tags)


def _metrics(event: Event, outcome: Outcome) -> list[dict[str, Any]]:
    figures: dict[str, float] = {
        "success": float(outcome.success),
        "duration_seconds": outcome.duration_ms / 1000,
        "prompt_tokens": outcome.usage.prompt_tokens,
        "completion_tokens": outcome.usage.completion_tokens,
    }
    if outcome.cost_usd is not None:
        figures["cost_usd"] = float(outcome.cost_usd)
    return [metric(name, value, event.time) for name, value in figures.items()]


def _scores(events: Sequence[Event]) -> list[dict[str, Any]]:
    scores = [(score_of(event), event) for event in events]
    return [
        metric(f"score/{score.name}", score.value, event.time) for score, event in scores if score is not None
    ]


def _params(outcome: Outcome) -> dict[str, str]:
    fields = {name: getattr(outcome, name) for name in ("agent_id", "capability", "model", "prompt")}
    return {name: value for name, value in fields.items() if value}


def _tags(event: Event, outcome: Outcome, accepted: Mapping[str, Any]) -> dict[str, str]:
    """The tags that runs are found by: task, end, trace, and the variants that were tried with it."""
    tags = {
        "meshwright.task": outcome.task_id,
        "meshwright.tenant": event.tenant_id,
        "meshwright.status": outcome.status,
        "meshwright.trace": event.trace_id or "",
        "meshwright.error": "" if outcome.error is None else outcome.error.type,
    }
    for variant in accepted.get("variants") or ():
        tags[f"meshwright.experiment.{variant['experiment']}"] = variant["name"]
    return {name: value for name, value in tags.items() if value}
