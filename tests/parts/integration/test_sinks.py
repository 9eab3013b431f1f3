"""Sinks get how tasks ended, and their scores, once, also after they were away."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshwright import TaskRequest
from meshwright.core.access import Role
from meshwright.core.errors import ConfigError, MeshError
from meshwright.core.messages import Caller, TaskVariant
from meshwright.core.topics import TASK_PROGRESS
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.llmops.operations import PromptRegistry
from meshwright.parts.llmops.records import PromptChange, PromptRequest
from meshwright.parts.sinks.component import Sinks
from meshwright.parts.stack.machine import Ports
from tests.support.fake_services import answering
from tests.support.fake_tracking import (
    PATIENCE_SECONDS,
    PUBLIC_KEY,
    SECRET_KEY,
    FakeAgenta,
    FakeLangfuse,
    FakeMlflow,
)
from tests.support.http_mesh import Api, Echo, http_mesh
from tests.support.postgres import Address
from tests.support.settings import load_settings

KEY = f"{PUBLIC_KEY}:{SECRET_KEY}"


class Other(Echo):
    """Another agent."""

    agent_id = "other"


def mlflow(url: str, **settings: Any) -> dict[str, Any]:
    return {"sinks": {"ml": {"kind": "mlflow", "url": url, "networks": ["127.0.0.0/8"]} | settings}}


def langfuse(url: str, **settings: Any) -> dict[str, Any]:
    kind = {"kind": "langfuse", "url": url, "networks": ["127.0.0.0/8"], "key": KEY}
    return {"sinks": {"lf": kind | settings}}


async def score(api: Api, task_id: str, name: str, value: float, comment: str = "") -> None:
    """Give a task a score, as a caller does."""
    view = await api.mesh.get(Tasks).task(task_id)
    event = api.mesh.event(
        "task.scored",
        {"name": name, "value": value, "comment": comment, "by": "ada"},
        topic=TASK_PROGRESS,
        task_id=task_id,
        agent_id=view.attempts[-1].agent_id,
        trace_id=view.trace_id,
    )
    await api.mesh.runtime.emit([event])


async def event(api: Api, event_type: str) -> dict[str, Any]:
    """The first event of a type, as soon as there is one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for found in api.mesh.log.tail(EventFilter(event_type=event_type, after_seq=0)):
            return found.fields
    raise AssertionError


async def metrics(api: Api) -> dict[str, float]:
    async with api.session.get("/metrics") as response:
        lines = [line for line in (await response.text()).splitlines() if line.startswith("meshwright_sinks")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def values(run: dict[str, Any], name: str) -> list[float]:
    return [value for _, _, value in run["metrics"].get(name, ())]


async def test_mlflow_gets_the_runs_of_several_tasks_side_by_side(tmp_path: Path) -> None:
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url)) as api:
        first, second = server.gate, asyncio.Event()
        first.clear()
        earlier = await api.finished(agent_id="echo", payload={"text": "0"})
        await server.until(lambda: server.waiting == 1)
        others = [await api.finished(agent_id="echo", payload={"text": str(n)}) for n in range(1, 6)]
        await score(api, others[0], "thumbs", 1.0)
        server.gate = second
        first.set()
        await server.until(lambda: server.waiting == 6)  # all of them before one has its answer
        second.set()
        runs = await server.ended(earlier, *others)
        await server.until(lambda: values(server.of(others[0])[0], "score/thumbs") == [1.0])
    assert len(runs) == len(server.runs) == 6


async def test_mlflow_gets_a_run_of_each_task_with_its_figures_and_scores(tmp_path: Path) -> None:
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url, experiment="ours")) as api:
        tried = TaskVariant(experiment="greeting", name="short", agent_id="echo")
        receipt = await api.mesh.get(Tasks).submit(
            TaskRequest(agent_id="echo", payload={"text": "hi"}), variants=(tried,)
        )
        failed = await api.finished(agent_id="echo", payload={"fail": True})
        good, bad = await server.ended(receipt.task_id, failed)
        await score(api, receipt.task_id, "thumbs", 1.0, "the words of a person")
        await score(api, receipt.task_id, "näh?", 0.5)
        await server.until(lambda: "score/n_h_" in good["metrics"])
    assert (good["info"]["status"], bad["info"]["status"]) == ("FINISHED", "FAILED")
    assert (values(good, "success"), values(bad, "success")) == ([1.0], [0.0])
    assert (values(good, "cost_usd"), values(good, "score/thumbs")) == ([0.0], [1.0])
    assert values(good, "duration_seconds")[0] >= 0
    assert (values(good, "prompt_tokens"), values(good, "completion_tokens")) == ([0], [0])
    assert (good["params"]["agent_id"], good["params"]["capability"]) == ("echo", "echoing")
    assert good["tags"]["meshwright.experiment.greeting"] == "short"
    assert (good["tags"]["meshwright.tenant"], bad["tags"]["meshwright.status"]) == ("default", "failed")
    assert [*server.experiments] == ["ours"] and len(server.runs) == 2
    said = json.dumps([request.body for request in server.requests])
    assert "you said" not in said and "told to fail" not in said and "words of a person" not in said


async def test_a_score_that_comes_before_the_end_is_in_the_run(tmp_path: Path) -> None:
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url)) as api:
        task_id = await api.submit(agent_id="gate")
        await event(api, "task.started")
        await score(api, task_id, "thumbs", 0.25)
        api.gate.set()
        [run] = await server.ended(task_id)
    assert values(run, "score/thumbs") == [0.25]


async def test_contents_are_an_artifact_where_the_settings_say_so(tmp_path: Path) -> None:
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url, contents=True)) as api:
        task_id = await api.finished(
            agent_id="echo", payload={"text": "my password is sk-ant-api03-" + "x" * 40}
        )
        [run] = await server.ended(task_id)
    [(path, outcome)] = server.artifacts.items()
    assert path == f"1/{run['info']['run_id']}/artifacts/outcome.json"
    assert outcome["result"]["text"].startswith("you said: my password") and "xxxx" not in str(outcome)


async def made(api: Api, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, document = await api.call("POST", path, json=body)
    assert status < 300, document
    return document


def of_group(server: FakeMlflow, name: str) -> list[dict[str, Any]]:
    """The runs of an experiment of MLflow that have ended."""
    ours = server.experiments.get(name)
    return [run for run in server.runs.values() if run["info"]["experiment_id"] == ours and run["end_time"]]


def last(run: dict[str, Any]) -> dict[str, float]:
    return {name: max(points)[-1] for name, points in run["metrics"].items()}


async def test_mlflow_gets_the_results_of_an_experiment_with_a_run_for_each_variant(tmp_path: Path) -> None:
    variants = [{"name": "now"}, {"name": "cold", "temperature": 0.5, "weight": 2}]
    inputs = {"inputs": [{"text": "hi"}, {"fail": True}], "repeats": 15}
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url, experiment="ours")) as api:
        wanted = {"name": "Cold?", "agent_id": "echo", "variants": variants}
        path = f"/v1/experiments/{(await made(api, '/v1/experiments', wanted))['experiment_id']}"
        tasks = (await made(api, f"{path}/run", inputs))["task_ids"]
        await asyncio.gather(*(api.mesh.get(Tasks).outcome(task_id) for task_id in tasks))
        server.lost = 1  # the run is made, and its answer lost
        await made(api, f"{path}/stop", {})
        await server.until(lambda: len(of_group(server, "ours-experiments")) == 3)
        shown = await api.get(f"{path}/results")
        runs = {run["info"]["run_name"]: run for run in of_group(server, "ours-experiments")}
        assert len(server.runs) == len(tasks) + 3
    above, cold = runs["Cold?"], runs["cold"]
    assert cold["tags"]["mlflow.parentRunId"] == runs["now"]["tags"]["mlflow.parentRunId"]
    assert cold["tags"]["mlflow.parentRunId"] == above["info"]["run_id"]
    assert (cold["tags"]["meshwright.verdict"], above["params"]["metric"]) == ("open", "success")
    assert (cold["params"], above["tags"]["meshwright.stopped_by"]) == (
        {"temperature": "0.5", "weight": "2.0"},
        "anonymous",
    )
    [figure] = [one for one in shown["figures"] if (one["variant"], one["metric"]) == ("cold", "success")]
    found = last(cold)
    assert [found[f"success/{name}"] for name in ("low", "high", "difference", "p_value", "count")] == [
        figure[name] for name in ("low", "high", "difference", "p_value", "count")
    ]
    assert (found["success"], found["tasks/ended"], found["tasks/cost_usd"]) == (0.5, 30, 0)
    assert found["missing"] == shown["variants"][1]["missing"]
    [(path, document)] = server.artifacts.items()
    assert path.endswith("/results.json") and document == shown


async def test_mlflow_gets_the_figures_of_an_evaluation(tmp_path: Path) -> None:
    items = [{"output": "It is Paris.", "expected": "Paris"}, {"output": "Rome", "expected": "Paris"}]
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url)) as api:
        wanted = {"name": "capitals", "data": {"items": items}, "metrics": ["contains", "length"]}
        path = f"/v1/evaluations/{(await made(api, '/v1/evaluations', wanted))['evaluation_id']}"
        await server.until(lambda: of_group(server, "meshwright-evaluations"))
        shown = await api.get(path)
        [run] = of_group(server, "meshwright-evaluations")
    found = last(run)
    assert (run["info"]["run_name"], run["tags"]["meshwright.evaluation_id"]) == (
        "capitals",
        shown["evaluation_id"],
    )
    assert (found["contains"], found["contains/count"], found["length/highest"]) == (0.5, 2, 3)
    assert (found["items"], found["items/failed"], found["cost_usd"]) == (2, 0, 0)
    [document] = [said for path, said in server.artifacts.items() if run["info"]["run_id"] in path]
    assert document == shown and "Paris" not in json.dumps(document)


async def test_an_evaluation_that_was_deleted_meanwhile_holds_nothing_up(
    tmp_path: Path, ports: Ports
) -> None:
    [port] = ports.take(1)
    settings = mlflow(f"http://127.0.0.1:{port}")
    async with http_mesh(tmp_path, **settings) as api:
        wanted = {"data": {"items": [{"output": "x"}]}, "metrics": ["length"], "evaluation_id": "gone"}
        await made(api, "/v1/evaluations", wanted)
        await event(api, "sink.delayed")
        async with api.session.delete("/v1/evaluations/gone") as answer:
            assert answer.status == 204
        # Before the server is there: a try under way may have read the evaluation before it was deleted.
        refused = await event(api, "sink.refused")
        async with FakeMlflow(port) as server:
            await server.ended(await api.finished(agent_id="echo"))
    assert refused["reason"].startswith("There is no evaluation 'gone'") and len(server.runs) == 1


@pytest.mark.parametrize("wanted", [{"agents": ["other"]}, {"agents": ["echo"], "tenant": "acme"}])
async def test_a_sink_gets_the_tasks_of_its_agents_and_its_tenant_alone(
    tmp_path: Path, wanted: dict[str, Any]
) -> None:
    headers = {"Mesh-Tenant": wanted.get("tenant", "default")}
    async with FakeMlflow() as server, http_mesh(tmp_path, Other, **mlflow(server.url, **wanted)) as api:
        await api.finished(agent_id="echo")
        body = {"agent_id": wanted["agents"][0], "payload": {"text": "hi"}}
        status, receipt = await api.call("POST", "/tasks", json=body, headers=headers)
        assert status == 202, receipt
        await server.ended(receipt["task_id"])
    assert len(server.runs) == 1


async def test_a_sink_that_was_away_gets_all_later_once_through_a_restart(
    tmp_path: Path, ports: Ports
) -> None:
    [port] = ports.take(1)
    server = FakeMlflow(port)
    settings = mlflow(f"http://127.0.0.1:{port}")
    async with http_mesh(tmp_path, **settings) as api:
        async with server:
            first = await api.finished(agent_id="echo")
            await server.ended(first)
        missed = [await api.finished(agent_id="echo") for _ in range(3)]
        await score(api, missed[0], "thumbs", 1.0)
        delayed = await event(api, "sink.delayed")
        figures = await metrics(api)
    assert (delayed["sink"], "cannot be reached" in delayed["reason"]) == ("ml", True)
    assert figures['meshwright_sinks_down{sink="ml"}'] == 1
    assert figures['meshwright_sinks_behind{sink="ml"}'] >= 3
    back = FakeMlflow(port)
    back.experiments, back.runs, back.lost = server.experiments, server.runs, 1
    async with back, http_mesh(tmp_path, **settings) as api:
        last = await api.finished(agent_id="echo")
        runs = await back.ended(first, *missed, last)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await metrics(api))['meshwright_sinks_behind{sink="ml"}']:
                pass  # until it has looked at what came last
        assert (await metrics(api))['meshwright_sinks_down{sink="ml"}'] == 0
    assert len(runs) == len(back.runs) == 5
    assert all(len(points) == 1 for run in runs for points in run["metrics"].values())
    assert values(runs[1], "score/thumbs") == [1.0]


CRASH = """
import asyncio, os, sys
from pathlib import Path
from meshwright.parts.sinks.mlflow import MlflowApi
from tests.parts.integration.test_sinks import http_mesh, mlflow

async def killed(*_, **__):
    await asyncio.sleep(0.5)  # a position that is stored too early is stored by then
    os._exit(9)  # the run is made, and says nothing yet

async def main():
    async with http_mesh(Path(sys.argv[1]), **mlflow(sys.argv[2])) as api:
        MlflowApi.log = killed
        await api.client.submit(agent_id="echo", task_id="t1")
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_run_that_was_cut_off_by_a_kill_is_made_whole(tmp_path: Path) -> None:
    async with FakeMlflow() as server:
        command = [sys.executable, "-c", CRASH, str(tmp_path), server.url]
        crashed = await asyncio.to_thread(subprocess.run, command, timeout=60)
        assert (crashed.returncode, [run["end_time"] for run in server.runs.values()]) == (9, [None])
        async with http_mesh(tmp_path, **mlflow(server.url)):
            [run] = await server.ended("t1")
    assert (len(server.runs), values(run, "success")) == (1, [1.0])


async def test_of_two_fronts_one_sends_and_the_other_takes_over(
    postgres_url: Address, tmp_path: Path
) -> None:
    async with FakeMlflow() as server:
        settings = mlflow(server.url) | {"database": postgres_url}
        async with http_mesh(tmp_path / "two", **settings) as two:
            async with http_mesh(tmp_path / "one", **settings) as one:
                server.gate.clear()
                together = await one.finished(agent_id="echo")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    for api in (one, two):  # until each knows that there is something to send
                        while not (await metrics(api))['meshwright_sinks_behind{sink="ml"}']:
                            pass
                server.gate.set()
                await server.ended(together)
            alone = await two.finished(agent_id="echo")
            await server.ended(alone)
    assert len(server.runs) == 2
    assert server.asked.count("POST /api/2.0/mlflow/runs/search") == 2  # each is looked for by one of them


async def test_langfuse_gets_the_scores_of_traces(tmp_path: Path) -> None:
    async with FakeLangfuse() as server, http_mesh(tmp_path, **langfuse(server.url)) as api:
        task_id = await api.finished(agent_id="echo")
        await score(api, task_id, "thumbs", 1.0, "the words of a person")
        await server.until(lambda: server.scores)
        trace_id = (await api.mesh.get(Tasks).task(task_id)).trace_id
    [found] = server.scores.values()
    assert (found["traceId"], found["name"], found["value"]) == (trace_id, "thumbs", 1.0)
    assert found["metadata"] == {"task_id": task_id, "tenant": "default", "by": "ada"}
    assert "comment" not in found


async def test_a_key_that_is_refused_loses_no_score_and_is_nowhere_to_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with FakeLangfuse() as server, http_mesh(tmp_path, **langfuse(server.url, contents=True)) as api:
        quoted = json.dumps({"message": f"no project has {SECRET_KEY}, of {KEY}"})
        server.faults += [answering(401, quoted), answering(429, Retry_After="1")]
        server.lost = 1
        task_id = await api.finished(agent_id="echo")
        await score(api, task_id, "thumbs", 1.0, "well done")
        await score(api, task_id, "thumbs", 0.5)
        await server.until(lambda: len(server.scores) == 2)
        delayed = await api.mesh.log.query(EventFilter(event_type="sink.delayed"))
        stored = b"".join(path.read_bytes() for path in (tmp_path / ".mesh").iterdir() if path.is_file())
    assert [event.fields["reason"] for event in delayed] == [
        f"{server.url} answered 401: no project has [redacted], of [redacted]"
    ]
    assert [found.get("comment") for found in server.scores.values()] == ["well done", None]
    assert server.asked.count("POST /api/public/scores") == 5
    assert SECRET_KEY not in caplog.text and SECRET_KEY.encode() not in stored


async def test_agenta_gets_registered_prompts_and_deploys_the_one_in_use(tmp_path: Path) -> None:
    async with FakeAgenta() as server:
        agenta = {"kind": "agenta", "url": server.url, "key": SECRET_KEY, "application": "agents"}
        sink = agenta | {"networks": ["127.0.0.0/8"], "contents": True}
        async with http_mesh(tmp_path, sinks={"ag": sink}) as api:
            server.lost = 1
            registry = api.mesh.get(PromptRegistry)
            admin = Caller(requested_by="ada", key_id="key", roles=frozenset({Role.ADMIN, Role.OPERATOR}))
            parameters = {"model": "fast", "temperature": 0.5, "params": {"top_p": 0.9}}
            first = PromptRequest(name="greeter", template="Be kind.", parameters=parameters)
            await registry.register(admin, first)
            brief = 'Be brief.\n{{role "user"}}\nSay \\{{hello}} to {{name}}'
            await registry.change(admin, "greeter", PromptChange(template=brief, message="shorter"))
            await registry.label(admin, "greeter", "canary", 2)
            await registry.label(admin, "greeter", "production", 1)
            await server.until(lambda: server.deployed)
            [check] = api.mesh.get(Sinks).checks()
            assert await check.ask() == f"{server.url} takes prompts for the application 'agents'"
    assert server.deployed == {"production": "greeter v1"}
    kind, brief = server.revisions.values()
    prompt = kind["data"]["parameters"]["prompt"]
    assert prompt["messages"] == [{"role": "system", "content": "Be kind."}]
    assert prompt["llm_config"] == {"model": "fast", "temperature": 0.5, "top_p": 0.9}
    assert brief["data"]["parameters"]["prompt"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say {{hello}} to {{name}}"},
    ]
    assert (brief["name"], brief["message"], len(server.variants)) == ("greeter v2", "shorter", 1)


async def test_an_event_that_a_sink_will_never_take_holds_up_no_other(tmp_path: Path) -> None:
    async with FakeLangfuse() as server, http_mesh(tmp_path, **langfuse(server.url)) as api:
        server.faults.append(answering(400, '{"message": "no"}'))
        task_id = await api.finished(agent_id="echo")
        await score(api, task_id, "first", 1.0)
        await score(api, task_id, "second", 1.0)
        await server.until(lambda: server.scores)
        refused = await event(api, "sink.refused")
    assert [found["name"] for found in server.scores.values()] == ["second"]
    assert (refused["sink"], refused["reason"]) == ("lf", f"{server.url} answered 400: no")


async def test_a_sink_at_a_private_address_has_to_be_allowed(tmp_path: Path) -> None:
    async with FakeMlflow() as server, http_mesh(tmp_path, **mlflow(server.url, networks=[])) as api:
        await api.finished(agent_id="echo")
        delayed = await event(api, "sink.delayed")
    assert "networks of [sinks.ml]" in delayed["reason"] and server.requests == []


async def test_doctor_says_whether_a_sink_lets_us_in(tmp_path: Path) -> None:
    async with FakeMlflow() as ml, FakeLangfuse() as lf:
        wrong = langfuse(lf.url, key="pk-lf-of-this-test:no")["sinks"]["lf"]
        sinks = mlflow(ml.url)["sinks"] | langfuse(lf.url)["sinks"] | {"wrong": wrong}
        settings = load_settings(tmp_path, model="offline", sinks=sinks)
        mesh = build_mesh(settings, project=tmp_path, agents=[Echo])
        ours, scores, refused = mesh.get(Sinks).checks()
        assert (ours.name, await ours.ask()) == ("sink ml", f"{ml.url} makes the experiment 'meshwright'")
        assert await scores.ask() == f"{lf.url} takes scores of ours"
        with pytest.raises(MeshError, match="answered 401: Invalid credentials"):
            await refused.ask()


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ({"kind": "langfuse"}, "PUBLIC_KEY:SECRET_KEY"),
        ({"kind": "mlflow", "url": "https://ada:secret@example.com"}, "the URL holds credentials"),
        ({"kind": "agenta", "key": "k", "application": "a"}, "contents = true"),
    ],
)
def test_a_sink_without_what_it_needs_is_refused(tmp_path: Path, sink: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(tmp_path, sinks={"one": {"url": "https://example.com"} | sink})
