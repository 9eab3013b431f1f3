"""The calls of MLflow's REST API that runs of experiments take.

https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from meshwright.edges.outgoing import TryLater, json_of
from meshwright.services.sinks.port import Refused, SinkServer

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
        document = json_of(answer)
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
        return None if runs[0] is None else _run_of(runs[0])

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
        return _run_of((await self._post("runs/create", body))["run"])

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


def _run_of(document: Mapping[str, Any]) -> MlflowRun:
    info = document["info"]
    is_open = info.get("status", _RUNNING) == _RUNNING
    return MlflowRun(str(info["run_id"]), str(info.get("artifact_uri") or ""), is_open)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:_MAX_VALUE_CHARS]} for key, value in values.items()]
