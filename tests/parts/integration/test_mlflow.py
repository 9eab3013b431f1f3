"""A real MLflow server shows what it gets: spans with messages, tokens and cost, and a run of each task."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from meshwright.core.access import Role
from meshwright.core.messages import Caller
from meshwright.core.otel import check_collector
from meshwright.core.topics import TASK_PROGRESS
from meshwright.edges.replies import table
from meshwright.edges.replies.table import SenderKey
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.evaluations.operations import Evaluations
from meshwright.parts.evaluations.records import EvaluationRequest
from meshwright.parts.experiments.operations import Experiments
from meshwright.parts.experiments.records import ExperimentRequest, ExperimentRunRequest
from meshwright.parts.stack.machine import Ports
from meshwright.testing import ScriptedModel, tool_call
from tests.models.integration.test_trace_attributes import REPLY, Broken, Teller
from tests.run import is_there
from tests.support.model_api import service

pytestmark = [
    pytest.mark.skipif(
        not is_there("mlflow"), reason="mlflow is not on PATH: it has an environment of its own"
    ),
    pytest.mark.soak("MLflow brings a hundred packages, and takes long to start"),
]
WORDS = "the words of a person"
HEADERS = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}


def one_span() -> bytes:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.name, span.trace_id, span.span_id = "first", b"0123456789abcdef", b"01234567"
    span.start_time_unix_nano, span.end_time_unix_nano = 1, 2
    return request.SerializeToString()


@pytest.fixture
async def mlflow(tmp_path: Path, ports: Ports) -> AsyncIterator[str]:
    """The URL of a server with an empty store."""
    [port] = ports.take(1)
    url = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{tmp_path}/mlflow.db"
    command = ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await answers(f"{url}/health", server)
        async with aiohttp.ClientSession(url) as session:  # its first answer takes longer than an export may
            await session.post("/v1/traces", data=one_span(), headers=HEADERS)
        yield url
    finally:
        server.terminate()
        server.wait()


async def answers(url: str, server: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as session:
        while server.poll() is None:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.2)  # a server of another program says nothing when it listens
    raise AssertionError("mlflow server has ended")


async def traces_of(url: str) -> list[dict[str, Any]]:
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    async with aiohttp.ClientSession(url) as session:
        search = session.post("/api/3.0/mlflow/traces/search", json={"locations": [location]})
        async with search as response:
            return (await response.json())["traces"]


async def spans_of(url: str, trace_id: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(url) as session:
        wanted = {"trace_ids": trace_id}
        async with session.get("/api/3.0/mlflow/traces/batchGet", params=wanted) as response:
            return (await response.json())["traces"][0]["spans"]


def attributes_of(span: dict[str, Any]) -> dict[str, str]:
    """The attributes of a span as text: MLflow stores what was JSON as a value of its own."""
    return {one["key"]: json.dumps(one["value"]) for one in span["attributes"]}


async def test_mlflow_shows_a_task(mlflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=0")
    model = ScriptedModel(tool_call("look_up", what="it"), REPLY)
    settings = {"otlp_endpoint": f"{mlflow}/v1/traces", "trace_content": True}
    async with service(tmp_path / "mesh", answering=model, agents=[Teller], **settings) as running:
        await running.mesh.get(Tasks).ask("teller", WORDS, thread_id="thread-7")
    found = await traces_of(mlflow)
    [trace] = [
        one for one in found if one.get("trace_metadata", {}).get("mlflow.trace.session") == "thread-7"
    ]
    known = {
        name: json.loads(trace["trace_metadata"][f"mlflow.trace.{name}"]) for name in ("tokenUsage", "cost")
    }
    assert (known["tokenUsage"]["input_tokens"], known["tokenUsage"]["output_tokens"]) == (100, 20)
    assert known["cost"]["total_cost"] == 0.0021
    shown = {span["name"]: attributes_of(span) for span in await spans_of(mlflow, trace["trace_id"])}
    assert "AGENT" in shown["invoke_agent teller"]["mlflow.spanType"]
    assert "CHAT_MODEL" in shown["chat default"]["mlflow.spanType"]
    assert "TOOL" in shown["execute_tool look_up"]["mlflow.spanType"]
    assert "openai" in shown["chat default"]["mlflow.llm.provider"]
    assert WORDS in shown["invoke_agent teller"]["mlflow.spanInputs"]
    assert "Brief." in shown["invoke_agent teller"]["mlflow.spanOutputs"]
    assert WORDS in shown["execute_tool look_up"]["mlflow.spanOutputs"]
    assert (trace["state"], trace["request_preview"], trace["response_preview"]) == (
        "OK",
        json.dumps(WORDS),
        json.dumps("Brief."),
    )


async def test_mlflow_shows_that_a_task_failed(
    mlflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=0")
    settings = {"otlp_endpoint": f"{mlflow}/v1/traces", "models": {"park": False}}
    async with service(tmp_path / "mesh", answering=Broken(), agents=[Teller], **settings) as running:
        assert await asyncio.to_thread(check_collector, f"{mlflow}/v1/traces")
        outcome = await running.mesh.get(Tasks).ask("teller", WORDS, thread_id="thread-8")
    assert outcome.status == "failed"
    found = [one for one in await traces_of(mlflow) if "trace_metadata" in one]
    [trace] = [one for one in found if one["trace_metadata"].get("mlflow.trace.session") == "thread-8"]
    assert trace["state"] == "ERROR" and WORDS not in json.dumps(trace)


async def post(url: str, call: str, body: dict[str, Any]) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(url) as session,
        session.post(f"/api/2.0/mlflow/{call}", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def runs_of(url: str, count: int) -> list[dict[str, Any]]:
    """The runs of the experiment `agents`, once so many have ended, with a score each."""
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(120):
        while True:
            wanted = {"experiment_name": "agents"}
            async with session.get("/api/2.0/mlflow/experiments/get-by-name", params=wanted) as answer:
                found = await answer.json()
            if answer.status == 200:
                experiment_id = found["experiment"]["experiment_id"]
                runs = (await post(url, "runs/search", {"experiment_ids": [experiment_id]})).get("runs", [])
                scored = [run for run in runs if "score/thumbs" in str(run["data"].get("metrics"))]
                if len(scored) == count:
                    return runs
            await asyncio.sleep(0.2)  # a server of another program does not say when it has them


def sinking(url: str) -> dict[str, Any]:
    sink = {"kind": "mlflow", "url": url, "experiment": "agents", "networks": ["127.0.0.0/8"]}
    return {"sinks": {"ml": sink | {"contents": True}}}


async def test_mlflow_gets_a_run_of_each_task_once(mlflow: str, tmp_path: Path) -> None:
    for _ in range(2):  # the second time everything is sent once more
        model = ScriptedModel(REPLY)
        async with service(tmp_path / "mesh", answering=model, agents=[Teller], **sinking(mlflow)) as running:
            mesh = running.mesh
            outcome = await mesh.get(Tasks).ask("teller", WORDS)
            known = {"task_id": outcome.task_id, "agent_id": "teller", "topic": TASK_PROGRESS}
            scored = {"name": "thumbs", "value": 1.0, "comment": "", "by": "ada"}
            await mesh.runtime.emit([mesh.event("task.scored", scored, **known)])
            count = len(await mesh.log.query(EventFilter(event_type="task.scored")))
            runs = await runs_of(mlflow, count)
        async with service(tmp_path / "mesh", answering=model, agents=[Teller]) as running:
            await running.mesh.database.write(table.reach, SenderKey("sink", "ml"), 0)
    assert len(runs) == 2
    for run in runs:
        metrics = {one["key"]: one["value"] for one in run["data"]["metrics"]}
        params = {one["key"]: one["value"] for one in run["data"]["params"]}
        assert (metrics["cost_usd"], metrics["prompt_tokens"], metrics["completion_tokens"]) == (
            0.0021,
            100,
            20,
        )
        assert (metrics["success"], metrics["score/thumbs"]) == (1, 1)
        assert params["agent_id"] == "teller" and params["model"] == "gpt-5.4"
        assert run["info"]["status"] == "FINISHED" and run["info"]["end_time"] >= run["info"]["start_time"]
        wanted = {"run_id": run["info"]["run_id"]}
        async with aiohttp.ClientSession(mlflow) as session:
            history = {**wanted, "metric_key": "score/thumbs"}
            async with session.get("/api/2.0/mlflow/metrics/get-history", params=history) as answer:
                assert len((await answer.json())["metrics"]) == 1
            async with session.get("/get-artifact", params={**wanted, "path": "outcome.json"}) as answer:
                assert (await answer.json(content_type=None))["result"]["text"] == "Brief."


async def ended_runs(url: str, name: str, count: int) -> list[dict[str, Any]]:
    """The runs of an experiment of MLflow, as soon as so many have ended."""
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(120):
        while True:
            wanted = {"experiment_name": name}
            async with session.get("/api/2.0/mlflow/experiments/get-by-name", params=wanted) as answer:
                found = await answer.json()
            if answer.status == 200:
                body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
                runs = (await post(url, "runs/search", body)).get("runs", [])
                ended = [run for run in runs if run["info"]["status"] == "FINISHED"]
                if len(ended) == count:
                    return ended
            await asyncio.sleep(0.2)  # a server of another program does not say when it has them


async def make_results(mesh: Mesh) -> None:
    """Run an experiment over an input and stop it, and begin an evaluation."""
    caller, experiments = Caller(roles=frozenset(Role)), mesh.get(Experiments)
    variants = [{"name": "now"}, {"name": "cold", "temperature": 0.5}]
    wanted = {"name": "Cold?", "agent_id": "teller", "variants": variants}
    made = await experiments.create(caller, ExperimentRequest.model_validate(wanted))
    inputs = ExperimentRunRequest(inputs=[{"text": WORDS}])
    for task_id in (await experiments.run(caller, made.experiment_id, inputs)).task_ids:
        await mesh.get(Tasks).outcome(task_id)
    await experiments.end(caller, made.experiment_id)
    plan = {"data": {"items": [{"output": "Brief."}]}, "metrics": ["length"], "name": "short"}
    await mesh.get(Evaluations).make(caller, EvaluationRequest.model_validate(plan))


async def test_mlflow_gets_the_results_of_experiments_and_evaluations_once(
    mlflow: str, tmp_path: Path
) -> None:
    for count in (2, 3):  # the second time everything is sent once more, before the last task
        model = ScriptedModel(REPLY, REPLY)
        async with service(tmp_path / "mesh", answering=model, agents=[Teller], **sinking(mlflow)) as running:
            if count == 2:
                await make_results(running.mesh)
            else:
                await running.mesh.get(Tasks).ask("teller", WORDS)
            await ended_runs(mlflow, "agents", count)
            tried = await ended_runs(mlflow, "agents-experiments", 3)
            [judged] = await ended_runs(mlflow, "agents-evaluations", 1)
        async with service(tmp_path / "mesh", answering=model, agents=[Teller]) as running:
            await running.mesh.database.write(table.reach, SenderKey("sink", "ml"), 0)
    shown = {run["info"]["run_name"]: run for run in tried}
    assert shown.keys() == {"Cold?", "now", "cold"}
    tags = {one["key"]: one["value"] for one in shown["cold"]["data"]["tags"]}
    assert tags["mlflow.parentRunId"] == shown["Cold?"]["info"]["run_id"]
    metrics = {one["key"]: one["value"] for one in shown["cold"]["data"]["metrics"]}
    assert (metrics["success"], metrics["tasks/ended"], metrics["tasks/cost_usd"]) == (1, 1, 0.0021)
    figures = {one["key"]: one["value"] for one in judged["data"]["metrics"]}
    assert (figures["length"], figures["length/count"]) == (1, 1)
    for run, key in ((shown["Cold?"], "variants"), (judged, "figures")):
        async with aiohttp.ClientSession(mlflow) as session:
            place = {"run_id": run["info"]["run_id"], "path": "results.json"}
            async with session.get("/get-artifact", params=place) as answer:
                assert (await answer.json(content_type=None))[key]
