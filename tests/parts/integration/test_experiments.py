"""Experiments on live agents: over HTTP, by commands, and as tasks and their results show them."""

import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, ToolFailed
from meshwright.console.output import table
from meshwright.core.access import Role
from meshwright.core.messages import TaskRequest
from meshwright.engine.events.audit import RECORDED
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work.record import read_task
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.parts.experiments.commands import FIGURES, VARIANTS
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh, mesh_up
from tests.support.tenants import holder

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
ROUND, MOST = 20, 400
COLUMNS = 80
AGENT = """
from meshwright import Agent, Capability, Run


class Asker(Agent):
    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask_person("Go on?")
"""


class Greeter(Agent):
    """Greets as its prompt says, and fails where its model does."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
    remembers = False
    prompt_text = "Be kind."

    async def run(self, run: Run) -> str:
        answer = await run.ask(run.task.text)
        if answer == "bad":
            raise ToolFailed("It was rude")
        return answer


class CheapGreeter(Greeter):
    """Greets in the place of the other."""

    agent_id = "cheap-greeter"
    capabilities = (Capability("greeting"),)


class Chief(Agent):
    """Has another agent greet."""

    agent_id = "chief"
    capabilities = (Capability("leading"),)
    remembers = False
    delegates_to = ("greeter",)

    async def run(self, run: Run) -> str:
        return await run.delegate("greeter", "Hello")


def by_prompt(request: ModelRequest) -> ModelReply:
    """A model that does badly half of the time where its prompt is rude, by the text that it is asked."""
    is_bad = "rude" in request.messages[0].content and request.messages[-1].content[-1:] in "02468"
    return ModelReply(content="bad" if is_bad else "good", model="scripted", cost_usd=Decimal("0.001"))


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    model, settings = ScriptedModel(*[by_prompt] * 2 * MOST), {"check_seconds": 0, "max_inputs": 12}
    agents = (Greeter, CheapGreeter, Chief)
    async with http_mesh(
        tmp_path, *agents, script=model, admin_token=TOKEN, experiments={**settings, "max_experiments": 9}
    ) as api:
        for template in ("Be kind.", "Be rude."):
            body = {"template": template} | ({"name": "greeter"} if template == "Be kind." else {})
            method, path = ("POST", "") if "name" in body else ("PUT", "/greeter")
            assert (await api.call(method, f"/v1/prompts{path}", json=body, headers=ADMIN))[0] < 300
        yield api


def wanted(**fields: Any) -> dict[str, Any]:
    variants = [{"name": "kind", "version": 1}, {"name": "rude", "version": 2}]
    return {"name": "A rude greeter", "agent_id": "greeter", "variants": variants, **fields}


async def done(api: Api, method: str, path: str = "", body: Any = None) -> Any:
    """The document of a request that succeeds."""
    status, document = await api.call(method, f"/v1/experiments{path}", json=body, headers=ADMIN)
    assert status < 300, document
    return document


async def running(api: Api, body: dict[str, Any] | None = None, **fields: Any) -> str:
    """Make an experiment of live tasks and run it; returns its id."""
    made = await done(api, "POST", body=wanted(**fields))
    ran = await done(api, "POST", f"/{made['experiment_id']}/run", body or {})
    assert (ran["experiment"]["status"], ran["task_ids"]) == ("running", [])
    return made["experiment_id"]


async def greet(api: Api, text: str, agent_id: str = "greeter", **fields: Any) -> tuple[str, bool]:
    """Have a task done; returns its id, and whether it succeeded."""
    request = TaskRequest(agent_id=agent_id, payload={"text": text}, **fields)
    task_id = (await api.mesh.get(Tasks).submit(request)).task_id
    return task_id, (await api.mesh.get(Tasks).outcome(task_id)).success


async def variant_of(api: Api, task_id: str) -> str | None:
    """The variant that a task carries."""
    _, task = await read_task(api.mesh.runtime, task_id, "default")
    found = task.variant_for("greeter")
    return None if found is None else found.name


async def events(api: Api, event_type: str) -> list[Any]:
    return await api.mesh.log.query(EventFilter(event_type=event_type))


async def test_a_worse_prompt_is_found_and_rolled_back(api: Api) -> None:
    guard = {"metric": "success", "worse_by": 0.1, "action": "rollback"}
    experiment_id = await running(api, guard=guard, minimum_difference=0.3)
    results = await done(api, "GET", f"/{experiment_id}/results")
    assert results["variants"][1]["missing"] > ROUND and results["figures"] == []
    stopped = api.mesh.log.tail(EventFilter(event_type="experiment.stopped", after_seq=0))
    for number in range(MOST):
        await greet(api, f"Hello {number}")
        if number % ROUND == 0 and await events(api, "experiment.stopped"):
            break
    event = await anext(stopped)
    assert (event.fields["action"], event.fields["variant"]) == ("rollback", "rude")
    surely = re.match(r"success of rude is worse by ([\d.]+) to", event.fields["reason"])
    assert surely is not None and float(surely[1]) > 0.1  # by how much depends on the tasks that had ended
    shown = await done(api, "GET", f"/{experiment_id}")
    assert (shown["status"], shown["action"], shown["stopped_by"]) == ("stopped", "rollback", "guard")
    results = await done(api, "GET", f"/{experiment_id}/results")
    kind, rude = results["variants"]
    assert (kind["verdict"], rude["verdict"], rude["missing"]) == (None, "worse", 0)
    assert Decimal(kind["cost_usd"]) == kind["ended"] * Decimal("0.001") and rude["open"] == 0
    own, other = (figures for figures in results["figures"] if figures["metric"] == "success")
    assert own["mean"] == 1 and own["p_value"] is None and other["mean"] < 0.95
    assert other["difference_high"] < 0 and other["p_value"] <= 0.05
    task_id, _ = await greet(api, "Hello 10")
    assert await variant_of(api, task_id) is None  # everything is back
    [item] = (await api.call("GET", "/inbox", headers=ADMIN))[1]["items"]
    assert (item["source"], item["subject"]["experiment_id"]) == ("experiment", experiment_id)
    assert "was rolled back: success of rude is worse by" in item["question"]
    seen = {"value": {"approve": True}, "id": item["id"]}
    assert (await api.call("POST", "/inbox/answer", json=seen, headers=ADMIN))[0] == 200
    assert (await api.call("GET", "/inbox", headers=ADMIN))[1]["items"] == []
    for columns, found in ((VARIANTS, results["variants"]), (FIGURES, results["figures"])):
        lines = table(columns, found, width=COLUMNS).splitlines()
        assert max(map(len, lines)) <= COLUMNS and all("rude" in line or "kind" in line for line in lines[1:])


async def test_a_task_keeps_its_variant_in_its_thread_in_retries_and_in_what_it_delegates(api: Api) -> None:
    experiment_id = await running(api)
    for number in range(6):
        first, _ = await greet(api, "Hello", thread_id=f"thread-{number}")
        failed, success = await greet(api, "Hello 0", thread_id=f"thread-{number}")
        assert await variant_of(api, first) == await variant_of(api, failed) is not None
        assert success == (await variant_of(api, first) == "kind")
        if not success:
            await api.mesh.get(Tasks).retry(failed, begin="start")
            assert not (await api.mesh.get(Tasks).outcome(failed)).success  # its prompt is the same
            assert await variant_of(api, failed) == "rude"
    task_id, _ = await greet(api, "Hello", "chief")
    accepted = [
        event for event in await events(api, "task.accepted") if event.fields["parent_task_id"] == task_id
    ]
    [child] = accepted
    assert child.fields["variants"] == [
        {"experiment": experiment_id, "name": await variant_of(api, task_id), "agent_id": "greeter"}
    ]
    results = await done(api, "GET", f"/{experiment_id}/results")
    assert sum(variant["ended"] for variant in results["variants"]) == 2 * 6 + 1  # none of the chief
    units = [figures["count"] for figures in results["figures"] if figures["metric"] == "success"]
    assert sum(units) == 6 + 1


async def test_variants_do_the_tasks_of_inputs(api: Api) -> None:
    variants = [{"name": "kind"}, {"name": "cheap", "runs_as": "cheap-greeter"}]
    made = await done(api, "POST", body=wanted(variants=variants))
    path = f"/{made['experiment_id']}"
    body = {"inputs": [{"text": "Hello 1"}, {"text": "Hello 2"}], "repeats": 2, "budget_usd": "0.5"}
    ran = await done(api, "POST", f"{path}/run", body)
    assert len(set(ran["task_ids"])) == 8 and ran["experiment"]["runs_over"] == "inputs"
    outcomes = [await api.mesh.get(Tasks).outcome(task_id) for task_id in ran["task_ids"]]
    assert [outcome.agent_id for outcome in outcomes] == ["greeter", "cheap-greeter"] * 4
    assert (await done(api, "POST", f"{path}/run", body))["task_ids"] == ran["task_ids"]
    colleague = await holder(api, "default", Role.OPERATOR, Role.SUBMITTER)
    found, again = await api.call("POST", f"/v1/experiments{path}/run", json=body, headers=colleague)
    assert (found, again["task_ids"]) == (200, ran["task_ids"])
    results = await done(api, "GET", f"{path}/results")
    assert [(variant["ended"], variant["open"]) for variant in results["variants"]] == [(4, 0), (4, 0)]
    task_id, _ = await greet(api, "Hello")
    assert await variant_of(api, task_id) is None  # it chooses for no live task
    for body, status in (({}, 409), ({"inputs": [{}] * 7}, 413), ({"inputs": []}, 422)):
        assert (await api.call("POST", f"/v1/experiments{path}/run", json=body, headers=ADMIN))[0] == status
    operator = await holder(api, "default", Role.OPERATOR)
    body = {"inputs": [{"text": "x"}]}
    assert (await api.call("POST", f"/v1/experiments{path}/run", json=body, headers=operator))[0] == 403


async def test_scores_of_tasks_are_metrics(api: Api) -> None:
    experiment_id = await running(api, metric="thumbs", minimum_difference=0.2)
    task_id, _ = await greet(api, "Hello")
    payload = {"name": "thumbs", "value": 1.0, "comment": "", "by": "ada"}
    await api.mesh.runtime.emit([api.mesh.event("task.scored", payload, task_id=task_id)])
    results = await done(api, "GET", f"/{experiment_id}/results")
    assert (results["figures"][0]["metric"], results["figures"][0]["mean"]) == ("thumbs", 1)
    assert results["figures"][0]["variant"] == await variant_of(api, task_id)


async def test_experiments_are_made_run_and_stopped_by_operators_of_their_tenant(api: Api) -> None:
    one, other = [(await done(api, "POST", body=wanted()))["experiment_id"] for _ in range(2)]
    viewer, foreign = await holder(api, "default", Role.VIEWER), await holder(api, "acme", Role.ADMIN)

    async def status(method: str, path: str, headers: dict[str, str] = ADMIN, body: Any = None) -> int:
        return (await api.call(method, f"/v1/experiments{path}", json=body, headers=headers))[0]

    assert await status("POST", f"/{one}/run", viewer, {}) == 403
    assert await status("POST", f"/{one}/run", ADMIN, {}) == 200
    assert await status("POST", f"/{one}/run", ADMIN, {}) == 200  # again
    assert await status("POST", f"/{other}/run", ADMIN, {}) == 409  # an agent has one at a time
    for path in (f"/{one}", f"/{one}/results"):
        assert (await status("GET", path, viewer), await status("GET", path, foreign)) == (200, 404)
    for path in (f"/{one}/run", f"/{one}/stop"):
        assert await status("POST", path, foreign, {}) == 404
    page = await done(api, "GET", "?limit=1")
    assert ([item["experiment_id"] for item in page["items"]], page["cursor"]) == ([other], other)
    assert (await done(api, "GET", f"?cursor={other}"))["items"][0]["experiment_id"] == one
    assert (await api.call("GET", "/v1/experiments", headers=foreign))[1]["items"] == []
    assert (await status("POST", f"/{one}/stop"), await status("POST", f"/{one}/stop")) == (200, 200)
    assert await status("POST", f"/{one}/run", ADMIN, {}) == 409  # it was stopped
    assert await status("POST", f"/{other}/run", ADMIN, {}) == 200
    [stopped] = await events(api, "experiment.stopped")
    assert (stopped.fields["experiment_id"], stopped.fields["stopped_by"]) == (one, "admin")
    recorded = [event.fields["action"] for event in await events(api, RECORDED)]
    assert [action for action in recorded if action == "experiment.created"] == ["experiment.created"] * 2
    for _ in range(7):
        await done(api, "POST", body=wanted())
    assert await status("POST", "", ADMIN, wanted()) == 507


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"agent_id": "ghost"}, 404, "agent_id"),
        ({"variants": [{"name": "a"}, {"name": "b", "version": 9}]}, 404, "variants.1.version"),
        ({"variants": [{"name": "a", "runs_as": "ghost"}, {"name": "b"}]}, 404, "variants.0.runs_as"),
        ({"variants": [{"name": "a", "runs_as": "chief"}, {"name": "b"}]}, 422, "variants.0.runs_as"),
        ({"variants": [{"name": "a"}]}, 422, "variants"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, 422, None),
        ({"variants": [{"name": "a"}, {"name": "b", "weight": 0}]}, 422, "variants.1.weight"),
        (
            {"variants": [{"name": "a"}, {"name": "b", "params": {"x": "y" * 5_000}}]},
            422,
            "variants.1.params",
        ),
        ({"metric": "cost_usd"}, 422, None),
        ({"guard": {"worse_by": 0.1, "bound": 0.5}}, 422, "guard"),
        ({"unit": "task"}, 422, "unit"),
    ],
)
async def test_an_experiment_that_cannot_work_is_refused(
    api: Api, change: dict[str, Any], status: int, field: str | None
) -> None:
    found, problem = await api.call("POST", "/v1/experiments", json=wanted(**change), headers=ADMIN)
    assert found == status, problem
    assert field is None or problem["field"] == field


@pytest.mark.parametrize(
    ("body", "field", "remedies"),
    [
        (
            {"name": "k", "prompt": "greeting", "variants": ["a", "b"]},
            "agent_id",
            ["agent_id: The agent that is tried", "Known are name, agent_id, variants"],
        ),
        ({"name": "k", "agent": "author", "variants": ["a", "b"]}, "agent_id", ["'agent_id' for 'agent'?"]),
        ({"name": "k", "agent_id": "asker"}, "variants", ["variants: Two or more, each an object"]),
        (
            {"name": "k", "agent_id": "asker", "variants": [{"name": "a", "versoin": 1}, "b"]},
            "variants.0.versoin",
            ["Did you mean 'version'?"],
        ),
        (
            {"name": "k", "agent_id": "asker", "variants": [{"name": "a", "prompt_template": "x"}, "b"]},
            "variants.0.prompt_template",
            ["Known are name, weight, version, model"],
        ),
        ({"name": "k", "agent_id": "asker", "variants": [{}, "b"]}, "variants.0.name", []),
    ],
)
async def test_an_experiment_names_the_field_that_it_wants(
    api: Api, body: dict[str, Any], field: str, remedies: list[str]
) -> None:
    found, problem = await api.call("POST", "/v1/experiments", json=body, headers=ADMIN)
    assert (found, problem["field"]) == (422, field), problem
    for remedy in remedies:
        assert remedy in problem["remedy"]


async def test_a_variant_may_be_its_name_alone(api: Api) -> None:
    body = wanted(variants=["now", {"name": "cold", "temperature": 0}])
    found, experiment = await api.call("POST", "/v1/experiments", json=body, headers=ADMIN)
    assert found == 201, experiment
    assert [variant["name"] for variant in experiment["variants"]] == ["now", "cold"]


async def test_the_command_line_makes_runs_and_shows_experiments(tmp_path: Path) -> None:
    data, file = ("--data", str(tmp_path / "data")), tmp_path / "experiment.json"
    variants = [{"name": "now"}, {"name": "cold", "temperature": 0}]
    file.write_text(json.dumps({"name": "Cold", "agent_id": "simple-agent", "variants": variants}))

    async def run(*arguments: str, status: int = 0) -> str:
        ended = await mesh("experiments", *arguments, *data, MESH_TRUST="1")
        assert ended.status == status, ended
        return ended.out + ended.err

    made = json.loads(await run("create", str(file), "--json"))
    experiment_id = made["experiment_id"]
    assert "created" in await run("list")
    assert json.loads(await run("show", experiment_id))["variants"][1]["temperature"] == 0
    assert await run("run", experiment_id) == "Cold runs over tasks\n"
    shown = await run("results", experiment_id)
    assert "Cold on simple-agent, running" in shown and "more of each" in shown
    assert json.loads(await run("results", experiment_id, "--json"))["figures"] == []
    assert await run("stop", experiment_id) == "stopped: Cold\n"
    file.write_text("{")
    assert "is no JSON" in await run("create", str(file), status=2)


async def test_variants_survive_kill_9(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "asker.py").write_text(AGENT)
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_TRUST": "1"}
    body = {
        "name": "x",
        "agent_id": "asker",
        "variants": [{"name": "now"}, {"name": "cold", "temperature": 0}],
    }
    threads = [f"thread-{number}" for number in range(12)]

    async def submitted(running: Any) -> dict[str, str]:
        """Submit a task to each thread; returns the variants that were accepted."""
        for thread in threads:
            await running.client.submit("asker", "Hello", thread_id=thread)
        accepted = await running.client.events(event_type="task.accepted", limit=1000, order="desc")
        newest = [event.payload for event in accepted[: len(threads)]]
        return {payload["thread_id"]: payload["variants"][0]["name"] for payload in newest}

    async with mesh_up(tmp_path / "data", **environment) as running:
        made = await running.post("/v1/experiments", body)
        path = f"/v1/experiments/{made.body['experiment_id']}"
        assert (await running.post(f"{path}/run", {})).status == 200
        before = await submitted(running)
        assert set(before.values()) == {"now", "cold"}
        results = (await running.get(f"{path}/results")).body["variants"]
        await running.kill()
    async with mesh_up(tmp_path / "data", **environment) as running:
        assert (await running.get(f"{path}/results")).body["variants"] == results
        assert await submitted(running) == before
