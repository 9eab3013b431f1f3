"""MLflow: a run for each task, experiment and evaluation that has ended.

A run is found again by a tag, and its metrics have the times of their events, so that a repeat changes
nothing. The API: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from meshwright import Event, Outcome
from meshwright.core.redaction import redact_data
from meshwright.core.topics import TASK_PROGRESS
from meshwright.edges.outgoing_requests import TryLater, parse_json
from meshwright.kit import FINAL, NotFound, encode
from meshwright.parts.sinks.port import SCORED, Refused, SinkServer, read_score

if TYPE_CHECKING:
    from meshwright.parts.evaluations.records import EvaluationFigure, EvaluationView
    from meshwright.parts.experiments.records import (
        ExperimentFigures,
        ExperimentResults,
        VariantResult,
        VariantSpec,
    )

_API = "/api/2.0/mlflow"
_TAG = "meshwright.run"
_RUNNING = "RUNNING"
_MAX_VALUE_CHARS = 500  # of a param or tag that MLflow has taken ever since
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.\- :/]")


class MlflowRun(NamedTuple):
    """A run, the place of its artifacts, and whether it goes on."""

    run_id: str
    artifacts: str
    is_open: bool


class MlflowApi:
    """Runs of experiments, which are found by their names; a run has a key by which it is found again."""

    def __init__(self, server: SinkServer) -> None:
        self._server = server
        self._experiment_ids: dict[str, str] = {}
        self._making = asyncio.Lock()

    def forget(self) -> None:
        """Ask for experiments again: they may be another server's by now."""
        self._experiment_ids.clear()

    async def experiment_id(self, name: str) -> str:
        """The id of an experiment, which is made where it is missing. Raises TryLater."""
        async with self._making:
            if (experiment_id := self._experiment_ids.get(name)) is None:
                experiment = await self.find_experiment(name)
                experiment = experiment or await self._post("experiments/create", {"name": name})
                experiment_id = self._experiment_ids[name] = str(experiment["experiment_id"])
            return experiment_id

    async def find_experiment(self, name: str) -> dict[str, Any] | None:
        """An experiment; None where it is missing. Raises TryLater."""
        path = f"{_API}/experiments/get-by-name?experiment_name={quote(name, safe='')}"
        answer = await self._server.request("GET", path)
        document = parse_json(answer)
        if answer.status == 404 and document.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return None
        experiment = document.get("experiment")
        if answer.status != 200 or not isinstance(experiment, dict):
            raise TryLater(self._server.problem(answer))
        if experiment.get("lifecycle_stage") == "deleted":
            raise TryLater(f"the experiment {name!r} is deleted: restore it, or name another")
        return experiment

    async def find_run(self, experiment_id: str, key: str) -> MlflowRun | None:
        """The run of a key. Raises TryLater."""
        query = {"experiment_ids": [experiment_id], "filter": f"tags.`{_TAG}` = '{key}'"}
        query |= {"run_view_type": "ACTIVE_ONLY", "max_results": 1}
        runs = (await self._post("runs/search", query)).get("runs") or [None]
        return None if runs[0] is None else _parse_run(runs[0])

    async def create_run(
        self, experiment_id: str, key: str, name: str, started_at: datetime, tags: Mapping[str, str]
    ) -> MlflowRun:
        """Make the run of a key, which is open. Raises TryLater."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": milliseconds(started_at),
            "tags": _pairs({**tags, _TAG: key}),
        }
        return _parse_run((await self._post("runs/create", body))["run"])

    async def log(
        self, run: MlflowRun, *, metrics: Sequence[Mapping[str, Any]], params: Mapping[str, str] | None = None
    ) -> None:
        """Add metrics and params. Raises Refused, TryLater."""
        body = {"run_id": run.run_id, "metrics": metrics, "params": _pairs(params or {})}
        await self._server.ask("POST", f"{_API}/runs/log-batch", json=body)

    async def put_artifact(self, run: MlflowRun, name: str, data: bytes) -> None:
        """Write an artifact where the server keeps artifacts itself, as it does by default."""
        place = urlsplit(run.artifacts)
        if place.scheme == "mlflow-artifacts":
            path = f"/api/2.0/mlflow-artifacts/artifacts/{place.path.strip('/')}/{name}"
            await self._server.ask("PUT", path, data=data)

    async def end(self, run: MlflowRun, status: str, time: datetime) -> None:
        """Say how a run has ended. Raises TryLater."""
        body = {"run_id": run.run_id, "status": status, "end_time": milliseconds(time)}
        await self._post("runs/update", body)

    async def _post(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call what says nothing of the event itself, and works once the experiment is in order again."""
        try:
            return await self._server.ask("POST", f"{_API}/{call}", json=body)
        except Refused as error:
            raise TryLater(str(error)) from None


def metric(name: str, value: float, time: datetime) -> dict[str, Any]:
    """A value of a metric; characters that no name there may have become `_`."""
    key = _NOT_IN_NAMES.sub("_", name)
    return {"key": key, "value": value, "timestamp": milliseconds(time), "step": 0}


def milliseconds(time: datetime) -> int:
    """A time as MLflow writes it."""
    return int(time.timestamp() * 1000)


def _parse_run(document: Mapping[str, Any]) -> MlflowRun:
    info = document["info"]
    is_open = info.get("status", _RUNNING) == _RUNNING
    return MlflowRun(str(info["run_id"]), str(info.get("artifact_uri") or ""), is_open)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:_MAX_VALUE_CHARS]} for key, value in values.items()]


class ResultsRun(NamedTuple):
    """A run to make, with the runs below it. `document` is JSON, and becomes an artifact."""

    name: str
    started_at: datetime
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float] = {}
    parts: Sequence[ResultsRun] = ()
    document: bytes = b""


def run_of_experiment(results: ExperimentResults) -> ResultsRun:
    """The run of an experiment, with one below it for each variant."""
    experiment = results.experiment
    started_at = experiment.started_at or experiment.created_at
    parts = [
        _run_of_variant(
            spec, result, [figure for figure in results.figures if figure.variant == spec.name], started_at
        )
        for spec, result in zip(experiment.variants, results.variants, strict=True)
    ]
    plan = experiment.model_dump(include={"agent_id", "unit", "metric", "runs_over"})
    fields = experiment.model_dump(include={"experiment_id", "stopped_by", "reason", "action"})
    return ResultsRun(
        experiment.name,
        started_at,
        tags=_tags(fields),
        params=_texts({**plan, "minimum_difference": experiment.difference}),
        parts=parts,
        document=results.model_dump_json().encode(),
    )


def _run_of_variant(
    spec: VariantSpec, result: VariantResult, figures: Sequence[ExperimentFigures], started_at: datetime
) -> ResultsRun:
    counts = {"ended": result.ended, "open": result.open, "unpriced": result.unpriced}
    metrics: dict[str, float | None] = {
        **{f"tasks/{name}": count for name, count in counts.items()},
        "tasks/cost_usd": float(result.cost_usd),
        "missing": result.missing,
    }
    for figure in figures:
        values = figure.model_dump(exclude={"metric", "variant", "mean"})
        metrics |= {figure.metric: figure.mean}
        metrics |= {f"{figure.metric}/{name}": value for name, value in values.items()}
    changes = spec.model_dump(exclude={"name"}, exclude_defaults=True)
    tags = _tags({"variant": spec.name, "verdict": result.verdict or "open"})
    return ResultsRun(spec.name, started_at, tags, _texts(changes), _known(metrics))


def run_of_evaluation(evaluation: EvaluationView) -> ResultsRun:
    """The run of an evaluation."""
    judge = evaluation.judge.model_dump() if evaluation.criteria else {}
    cost = None if evaluation.cost_usd is None else float(evaluation.cost_usd)
    metrics: dict[str, float | None] = {
        "items": evaluation.items,
        "items/failed": evaluation.failed,
        "cost_usd": cost,
    }
    for figure in evaluation.figures:
        metrics |= _figure_values(figure)
    params = {"agent_id": evaluation.agent_id, **{f"judge.{name}": value for name, value in judge.items()}}
    return ResultsRun(
        evaluation.name or evaluation.evaluation_id,
        evaluation.created_at,
        tags=_tags({"evaluation_id": evaluation.evaluation_id, "requested_by": evaluation.requested_by}),
        params=_texts(params),
        metrics=_known(metrics),
        document=evaluation.model_dump_json().encode(),
    )


def _figure_values(figure: EvaluationFigure) -> dict[str, float | None]:
    values = figure.model_dump()
    names = (name for name in values if name not in ("name", "kind", "mean"))
    return {figure.name: figure.mean, **{f"{figure.name}/{name}": values[name] for name in names}}


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {f"meshwright.{name}": text for name, text in _texts(values).items()}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    filled = {name: value for name, value in values.items() if value is not None}
    return {
        name: value if isinstance(value, str) else encode(value).decode() for name, value in filled.items()
    }


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


Find = Callable[..., Awaitable[Sequence[Event]]]
"""Finds events of a task in the log, as `EventLog.query_task` does."""
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
        events = await self._find(
            event.task_id, event.tenant_id, topic=TASK_PROGRESS, order="desc", limit=_MAX_LATE
        )
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
        scored = await self._find(event.task_id, event.tenant_id, event_type=SCORED, before_seq=event.seq)
        early = scored if outcome.generation == 1 else ()  # later ones are of the end that they followed
        metrics = [*_metrics(event, outcome), *_scores(early)]
        fields = {name: getattr(outcome, name) for name in ("agent_id", "capability", "model", "prompt")}
        params = {name: value for name, value in fields.items() if value}
        await self._api.log(run, metrics=metrics, params=params)
        if self._contents:
            await self._api.put_artifact(run, "outcome.json", encode(redact_data(event.fields)))
        await self._api.end(run, _STATES[outcome.status], event.time)
        return run

    async def _create_run(self, experiment_id: str, key: str, event: Event, outcome: Outcome) -> MlflowRun:
        accepted = await self._find(event.task_id, event.tenant_id, event_type="task.accepted", limit=1)
        tags = _task_tags(event, outcome, accepted[0].fields if accepted else {})
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
    scores = [(read_score(event), event) for event in events]
    return [
        metric(f"score/{score.name}", score.value, event.time) for score, event in scores if score is not None
    ]


def _task_tags(event: Event, outcome: Outcome, accepted: Mapping[str, Any]) -> dict[str, str]:
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
