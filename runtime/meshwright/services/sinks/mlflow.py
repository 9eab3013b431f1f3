"""MLflow: a run of an experiment for each task that has ended, over its REST API.

A run is found again by a tag, and its metrics have the times of their events, so that a repeat changes
nothing: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from meshwright.core.encoding import encode
from meshwright.core.messages import Event, Outcome
from meshwright.core.redaction import redact_data
from meshwright.core.topics import TASK_PROGRESS
from meshwright.edges.outgoing import TryLater, json_of
from meshwright.events.filter import EventFilter
from meshwright.orchestration.acceptance import FINAL
from meshwright.services.sinks.port import SCORED, Refused, SinkServer, score_of

Find = Callable[[EventFilter], Awaitable[Sequence[Event]]]
"""Finds events in the log."""
_API = "/api/2.0/mlflow"
_TAG = "meshwright.run"
_MAX_VALUE_CHARS = 500  # of a param or tag that MLflow has taken ever since
_MAX_LATE = 200  # events of a task behind the one that ended it
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.\- :/]")
_STATES = {"succeeded": "FINISHED", "failed": "FAILED", "timed_out": "FAILED", "cancelled": "KILLED"}


class _Run(NamedTuple):
    """A run, and the place of its artifacts."""

    run_id: str
    artifacts: str


class MlflowSink:
    """Makes a run of each end of a task, with its figures as metrics, and adds its scores as they come."""

    event_types: Collection[str] = (*FINAL, SCORED)

    def __init__(self, server: SinkServer, experiment: str, find: Find, *, contents: bool) -> None:
        self._server = server
        self._experiment = experiment
        self._find = find
        self._contents = contents
        self._experiment_id: str | None = None

    async def take(self, event: Event) -> None:
        """Write the run of a task that has ended, or a score into it. Raises Refused, TryLater."""
        try:
            if event.event_type == SCORED:
                await self._take_score(event)
            else:
                await self._take_end(event)
        except TryLater:
            self._experiment_id = None  # it may be another server's by now
            raise

    async def check(self) -> str:
        """Returns what becomes of the experiment. Raises TryLater."""
        found = await self._find_experiment()
        goes = "has" if found else "makes"
        return f"{self._server.shown} {goes} the experiment {self._experiment!r}"

    async def _take_score(self, event: Event) -> None:
        """Add a score to the last end of its task; one that is open brings it along when it ends."""
        of_task = {"tenant_id": event.tenant_id, "task_id": event.task_id}
        found = await self._find(EventFilter(topic=TASK_PROGRESS, order="desc", limit=_MAX_LATE, **of_task))
        ended = next((other for other in found if other.event_type in FINAL), None)
        if ended is not None and (run := await self._take_end(ended, is_new=False)) is not None:
            await self._log(run, metrics=_scores([event]))

    async def _take_end(self, event: Event, *, is_new: bool = True) -> _Run | None:
        """Write the run of an end, and make it where it is missing; None for one that was erased.

        A run that is there is whole where the end is not a new one.
        """
        try:
            outcome = Outcome.model_validate(event.fields)
        except ValueError:  # its contents were erased
            return None
        run_key = f"{event.tenant_id}/{outcome.task_id}/{outcome.generation}"
        experiment_id = await self._open_experiment()
        run = await self._find_run(experiment_id, run_key)
        if run is not None and not is_new:
            return run
        run = run or await self._create_run(experiment_id, run_key, event, outcome)
        of_task = {"tenant_id": event.tenant_id, "task_id": event.task_id}
        scored = await self._find(EventFilter(event_type=SCORED, before_seq=event.seq, **of_task))
        early = scored if outcome.generation == 1 else ()  # later ones are of the end that they followed
        await self._log(run, metrics=[*_metrics(event, outcome), *_scores(early)], params=_params(outcome))
        if self._contents:
            await self._put_artifact(run, "outcome.json", encode(redact_data(event.fields)))
        ended = {"run_id": run.run_id, "status": _STATES[outcome.status], "end_time": _ms(event.time)}
        await self._post("runs/update", ended)
        return run

    async def _open_experiment(self) -> str:
        if self._experiment_id is None:
            found = await self._find_experiment()
            if found is None:
                found = await self._post("experiments/create", {"name": self._experiment})
            self._experiment_id = str(found["experiment_id"])
        return self._experiment_id

    async def _find_experiment(self) -> dict[str, Any] | None:
        path = f"{_API}/experiments/get-by-name?experiment_name={quote(self._experiment, safe='')}"
        answer = await self._server.request("GET", path)
        said = json_of(answer)
        if answer.status == 404 and said.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return None
        found = said.get("experiment")
        if answer.status != 200 or not isinstance(found, dict):
            raise TryLater(self._server.problem(answer))
        if found.get("lifecycle_stage") == "deleted":
            raise TryLater(f"the experiment {self._experiment!r} is deleted: restore it, or name another")
        return found

    async def _find_run(self, experiment_id: str, run_key: str) -> _Run | None:
        wanted = {"experiment_ids": [experiment_id], "filter": f"tags.`{_TAG}` = '{run_key}'"}
        wanted |= {"run_view_type": "ACTIVE_ONLY", "max_results": 1}
        found = (await self._post("runs/search", wanted)).get("runs") or [None]
        return None if found[0] is None else _run_of(found[0])

    async def _create_run(self, experiment_id: str, run_key: str, event: Event, outcome: Outcome) -> _Run:
        of_task = {"tenant_id": event.tenant_id, "task_id": event.task_id}
        accepted = await self._find(EventFilter(event_type="task.accepted", limit=1, **of_task))
        tags = _tags(event, outcome, accepted[0].fields if accepted else {}) | {_TAG: run_key}
        begun = event.time - timedelta(milliseconds=outcome.duration_ms)
        wanted = {
            "experiment_id": experiment_id,
            "run_name": f"{outcome.agent_id} {outcome.task_id[-6:]}",
            "start_time": _ms(begun),
            "tags": _pairs(tags),
        }
        return _run_of((await self._post("runs/create", wanted))["run"])

    async def _log(
        self, run: _Run, *, metrics: Sequence[Mapping[str, Any]], params: Mapping[str, str] | None = None
    ) -> None:
        body = {"run_id": run.run_id, "metrics": metrics, "params": _pairs(params)}
        await self._server.ask("POST", f"{_API}/runs/log-batch", json=body)

    async def _put_artifact(self, run: _Run, name: str, data: bytes) -> None:
        """Write an artifact where the server keeps artifacts itself, as it does by default."""
        place = urlsplit(run.artifacts)
        if place.scheme == "mlflow-artifacts":
            path = f"/api/2.0/mlflow-artifacts/artifacts/{place.path.strip('/')}/{name}"
            await self._server.ask("PUT", path, data=data)

    async def _post(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call what says nothing of the event itself, and works once the experiment is in order again."""
        try:
            return await self._server.ask("POST", f"{_API}/{call}", json=body)
        except Refused as error:
            raise TryLater(str(error)) from None


def _run_of(document: Mapping[str, Any]) -> _Run:
    info = document["info"]
    return _Run(str(info["run_id"]), str(info.get("artifact_uri") or ""))


def _metrics(event: Event, outcome: Outcome) -> list[dict[str, Any]]:
    figures: dict[str, float] = {
        "success": float(outcome.success),
        "duration_seconds": outcome.duration_ms / 1000,
        "prompt_tokens": outcome.usage.prompt_tokens,
        "completion_tokens": outcome.usage.completion_tokens,
    }
    if outcome.cost_usd is not None:
        figures["cost_usd"] = float(outcome.cost_usd)
    return [_metric(name, value, event) for name, value in figures.items()]


def _scores(events: Sequence[Event]) -> list[dict[str, Any]]:
    found = [(score_of(event), event) for event in events]
    return [
        _metric(f"score/{_NOT_IN_NAMES.sub('_', score.name)}", score.value, event)
        for score, event in found
        if score is not None
    ]


def _metric(name: str, value: float, event: Event) -> dict[str, Any]:
    return {"key": name, "value": value, "timestamp": _ms(event.time), "step": 0}


def _params(outcome: Outcome) -> dict[str, str]:
    named = {name: getattr(outcome, name) for name in ("agent_id", "capability", "model", "prompt")}
    return {name: value for name, value in named.items() if value}


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


def _pairs(values: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:_MAX_VALUE_CHARS]} for key, value in (values or {}).items()]


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
