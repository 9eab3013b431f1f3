"""Figures of a mesh over HTTP, on a terminal, and as Prometheus reads them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, TaskRequest
from meshwright.cli.status import figures_text
from meshwright.component import Component, Figure
from meshwright.core.access import Role
from meshwright.core.messages import Usage
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelReply
from meshwright.parts.figures import reader
from meshwright.parts.figures.sums import CallSums, DaySum
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.interrupted_mesh import told_of
from tests.support.running_mesh import mesh
from tests.support.tenants import Asker, holder

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
SETTINGS = {"admin_token": TOKEN, "figures": {"stuck_seconds": 0.01}}


class Clerk(Agent):
    """Answers what its model says."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)


def reply(cost: str | None) -> ModelReply:
    usage = Usage(prompt_tokens=1200, completion_tokens=40)
    return ModelReply(
        content="Done.", usage=usage, model="big", cost_usd=None if cost is None else Decimal(cost)
    )


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    script = ScriptedModel()
    script.replies(reply("0.25"), reply(None), ModelRefused("no"), to="clerk")
    async with http_mesh(tmp_path, Asker, Clerk, script=script, **SETTINGS) as api:
        yield api


async def figures(api: Api, **headers: str) -> dict[str, Any]:
    status, found = await api.call("GET", "/figures", headers=headers or ADMIN)
    assert status == 200, found
    return found


async def agent(api: Api, agent_id: str, **headers: str) -> dict[str, Any]:
    found = await figures(api, **headers)
    return next(item for item in found["agents"] if item["agent_id"] == agent_id)


async def metrics(api: Api) -> dict[str, float]:
    async with api.session.get("/metrics", headers=ADMIN) as response:
        assert (response.status, response.content_type) == (200, "text/plain")
        lines = (await response.text()).splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


async def until(api: Api, event_type: str, count: int = 1) -> None:
    """Wait for so many events of a type since the mesh began."""
    async for _ in api.mesh.log.tail(EventFilter(event_type=event_type, after_seq=0)):
        count -= 1
        if not count:
            return


async def test_an_agent_shows_its_load_its_speed_and_its_success(api: Api) -> None:
    for fail in (False, False, False, True):
        await api.finished(agent_id="echo", payload={"text": "x", "fail": fail})
    for _ in range(9):
        await api.submit(agent_id="gate")
    await until(api, "task.started", 4 + 8)
    echo, gate = await agent(api, "echo"), await agent(api, "gate")
    assert (echo["success"], echo["rate"], echo["stuck"]) == (0.75, 0.8, 0)
    assert echo["p90_seconds"] >= echo["p50_seconds"] >= 0
    assert (gate["waiting"], gate["running"], gate["parked"], gate["slots"]) == (1, 8, 0, 8)
    assert gate["oldest"] is not None and gate["success"] is None
    assert (await figures(api))["dead_letters"] == {"failed": 1, "timed_out": 0, "messages": 0}


async def test_a_parked_task_is_neither_waiting_nor_running(api: Api) -> None:
    task_id = await api.submit(agent_id="asker")
    await until(api, "task.waiting")
    asker = await agent(api, "asker")
    assert (asker["waiting"], asker["running"], asker["parked"]) == (0, 0, 1)
    [parked] = (await figures(api))["parked"]
    assert (parked["agent_id"], parked["kind"], parked["count"]) == ("asker", "person", 1)
    question = (await api.mesh.get(Tasks).task(task_id)).waits[0].wait_id
    await api.client.answer(task_id, "yes", key=question)
    await api.mesh.get(Tasks).outcome(task_id)
    assert (await agent(api, "asker"))["parked"] == 0 and (await figures(api))["parked"] == []


class Chooser(Agent):
    """Asks one person by name."""

    agent_id = "chooser"
    capabilities = (Capability("choosing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("This one?", may_answer=["ada"]))


async def test_figures_say_for_whom_tasks_are_parked(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Asker, Chooser) as api:
        for agent_id in ("asker", "chooser", "chooser"):
            await api.submit(agent_id=agent_id)
        await until(api, "task.waiting", 3)
        parked = (await figures(api))["parked"]
        shown = {item["agent_id"]: (item["kind"], item["may_answer"], item["count"]) for item in parked}
        assert shown == {"asker": ("person", [], 1), "chooser": ("person", ["ada"], 2)}


async def test_a_task_that_was_answered_waits_for_its_slot_from_then_on(tmp_path: Path) -> None:
    opened = asyncio.Event()

    class Turnstile(Agent):
        agent_id = "turnstile"
        capabilities = (Capability("turning"),)
        max_concurrency = 1
        remembers = False

        async def run(self, run: Run) -> str:
            if run.task.text == "ask":
                return str(await run.ask_person("May I?"))
            await opened.wait()
            return "opened"

    async with http_mesh(tmp_path, Turnstile) as api:
        asking = await api.submit(agent_id="turnstile", text="ask")
        await until(api, "task.waiting")
        await api.submit(agent_id="turnstile", text="hold the slot")
        await until(api, "task.started", 2)
        before = api.mesh.runtime.clock.now()
        question = (await api.mesh.get(Tasks).task(asking)).waits[0].wait_id
        await api.client.answer(asking, "yes", key=question)
        await until(api, "wait.ended")
        shown = next(item for item in (await api.get("/figures"))["agents"] if item["waiting"])
        assert (shown["agent_id"], shown["running"], shown["parked"]) == ("turnstile", 1, 0)
        assert datetime.fromisoformat(shown["oldest"]) >= before
        opened.set()


async def test_an_attempt_over_twice_the_p90_of_its_agent_is_stuck(api: Api) -> None:
    api.gate.set()
    for _ in range(5):
        await api.finished(agent_id="gate")
    api.gate.clear()
    task_id = await api.submit(agent_id="gate")
    await until(api, "task.started", 6)
    async with asyncio.timeout(240):
        while not (stuck := (await figures(api))["stuck"]):
            pass  # the time passes that the others took
    assert stuck[0]["task_id"] == task_id and stuck[0]["running_seconds"] > 2 * stuck[0]["p90_seconds"]
    assert (await agent(api, "gate"))["stuck"] == 1
    api.gate.set()
    await api.mesh.get(Tasks).outcome(task_id)
    assert (await figures(api))["stuck"] == []


async def test_costs_of_today_are_those_of_the_ledger(api: Api) -> None:
    await figures(api)  # what comes later is added to what was read
    for _ in range(3):
        await api.finished(agent_id="clerk", payload={"text": "x"})
    clerk = await agent(api, "clerk")
    assert (clerk["calls_today"], clerk["unpriced_today"], clerk["cost_today_usd"]) == (3, 1, "0.25")
    status, costs = await api.call("GET", "/costs", params={"since": "24h"}, headers=ADMIN)
    [ledger] = [item for item in costs["items"] if item["key"] == "clerk"]
    assert status == 200
    assert (ledger["calls"], ledger["unpriced"], ledger["cost_usd"]) == (3, 1, "0.25")
    assert [model["deployment"] for model in (await figures(api))["models"]] == ["big", "default"]
    anew = CallSums(api.mesh.log)
    await anew.refresh(api.mesh.runtime.clock.now())
    assert anew.today["default", "clerk"] == DaySum(calls=3, unpriced=1, cost_pico=250_000_000_000)


async def test_figures_do_not_wait_for_costs_that_take_long_to_sum_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.finished(agent_id="clerk", payload={"text": "x"})
    with monkeypatch.context() as patched:
        patched.setattr(reader, "_MAX_SUM_SECONDS", 0.0)
        found, scraped = await figures(api), await metrics(api)
        shown = next(item for item in found["agents"] if item["agent_id"] == "clerk")
        assert (found["lacks_costs"], shown["success"], shown["cost_today_usd"]) == (True, 1.0, None)
        assert "costs of today: still being summed up" in figures_text(found)[-1]
        assert not [name for name in scraped if name.startswith("meshwright_agent_cost_today_usd")]
    found = await figures(api)
    assert (found["lacks_costs"], (await agent(api, "clerk"))["cost_today_usd"]) == (False, "0.25")
    assert "summed up" not in figures_text(found)[-1]


async def test_metrics_count_tasks_calls_and_tokens(api: Api) -> None:
    for _ in range(3):
        await api.finished(agent_id="clerk", payload={"text": "x"})
    found = await metrics(api)
    assert found['meshwright_tasks_accepted_total{agent="clerk"}'] == 3
    assert found['meshwright_tasks_ended_total{agent="clerk",status="succeeded"}'] == 2
    assert found['meshwright_tasks_ended_total{agent="clerk",status="failed"}'] == 1
    assert found['meshwright_dead_letters_total{kind="task"}'] == 1
    assert found['meshwright_model_cost_usd_total{agent="clerk"}'] == 0.25
    whose = 'tenant="default",agent="clerk",model="{}",prompt="clerk@{}"'
    prompt = next(name for name in found if name.startswith("meshwright_usage_calls_total{"))
    digest = prompt.partition("@")[2].partition('"')[0]
    answered, refused = whose.format("big", digest), whose.format("", digest)
    assert found[f"meshwright_usage_calls_total{{{answered}}}"] == 2
    assert found[f"meshwright_usage_calls_total{{{refused}}}"] == 1
    assert found[f'meshwright_usage_tokens_total{{{answered},kind="input"}}'] == 2400
    assert found[f'meshwright_usage_tokens_total{{{answered},kind="output"}}'] == 80
    assert found[f"meshwright_usage_cost_usd_total{{{answered}}}"] == 0.25
    model = 'gen_ai_operation_name="chat",gen_ai_provider_name="scripted"'
    names = f'{model},gen_ai_request_model="default",gen_ai_response_model="big"'
    tokens = f"gen_ai_client_inference_operation_input_tokens_bucket{{{names},le="
    assert (found[f'{tokens}"1024.0"}}'], found[f'{tokens}"4096.0"}}'], found[f'{tokens}"+Inf"}}']) == (
        0,
        2,
        2,
    )
    assert found[f"gen_ai_client_inference_operation_output_tokens_sum{{{names}}}"] == 80
    assert found[f"gen_ai_client_inference_duration_seconds_count{{{names}}}"] == 2
    failed = [
        name for name in found if "duration_seconds_count" in name and 'error_type="ModelRefused"' in name
    ]
    assert found[failed[0]] == 1


async def test_a_label_cannot_break_its_line(api: Api) -> None:
    from meshwright.parts.figures.operations import MetricsText

    text = MetricsText()
    text.family("x", "gauge", "X.", [({"agent": 'a"}\n\\evil 1'}, 1)])
    assert text.text().splitlines()[2:] == ['x{agent="a\\"}\\n\\\\evil 1"} 1']


async def test_a_tenant_sees_its_own_tasks_and_scrapes_nothing(api: Api) -> None:
    await api.finished(agent_id="echo", payload={"text": "x", "fail": True})
    await api.submit(agent_id="gate")
    await until(api, "task.started", 2)
    acme, everyone = await holder(api, "acme", Role.VIEWER), await holder(api, "*", Role.VIEWER)
    submitter = await holder(api, "*", Role.SUBMITTER)
    found = await figures(api, **acme)
    assert (found["workers"], found["models"], found["disk"]) == ([], [], None)
    assert found["dead_letters"] == {"failed": 0, "timed_out": 0, "messages": None}
    assert all(
        item["running"] == item["calls_today"] == 0 and item["rate"] is None for item in found["agents"]
    )
    assert (await agent(api, "gate", **everyone))["running"] == 1
    assert (await api.call("GET", "/scale/gate", headers=acme))[1]["value"] == 0
    for headers, status in ((acme, 403), (submitter, 403), ({}, 401)):
        assert (await api.call("GET", "/metrics", headers=headers))[0] == status
    async with api.session.get("/metrics", headers=everyone) as response:
        assert response.status == 200


async def test_an_autoscaler_reads_a_number_for_each_agent_and_for_all(api: Api) -> None:
    for _ in range(9):
        await api.submit(agent_id="gate")
    await api.submit(agent_id="asker")
    await until(api, "task.started", 9)
    await until(api, "task.waiting")
    for app in ("gate", "mesh"):
        _, found = await api.call("GET", f"/scale/{app}", headers=ADMIN)
        assert found == {"app": app, "value": 9, "waiting": 1, "running": 8}
    status, problem = await api.call("GET", "/scale/nobody", headers=ADMIN)
    assert (status, problem["field"]) == (404, "app") and "gate" in problem["remedy"]


async def test_a_worker_shows_its_store_its_lease_and_its_slots(api: Api, tmp_path: Path) -> None:
    [worker] = (await figures(api))["workers"]
    assert (worker["store"], worker["lease"], worker["is_front"]) == ("sqlite", "held", True)
    assert worker["agents"] == {"asker": 8, "clerk": 8, "echo": 8, "gate": 8}
    listed = await mesh("workers", "--url", api.url, MESH_ADMIN_TOKEN=TOKEN)
    assert listed.status == 0 and re.search(rf":{worker['pid']} +sqlite +held +32 ", listed.out), listed


async def test_status_shows_the_figures_of_agents(api: Api) -> None:
    await api.finished(agent_id="echo", payload={"text": "x", "fail": True})
    done = await mesh("status", "--url", api.url, MESH_ADMIN_TOKEN=TOKEN)
    assert re.search(r"^echo .* 0%", done.out, re.MULTILINE), done
    assert "dead letters: 1 task failed" in done.out and "workers: 1 with 32 slots" in done.out
    as_json = json.loads((await mesh("status", "--json", "--url", api.url, MESH_ADMIN_TOKEN=TOKEN)).out)
    assert as_json["tasks"] == {} and {item["agent_id"] for item in as_json["figures"]["agents"]} >= {"echo"}


class Pager(Component):
    """Has numbers of its own."""

    name = "pager"

    def figures(self) -> list[Figure]:
        return [
            Figure("pages", "Pages that were sent.", lambda: 7),
            Figure("teams", "People of each team.", lambda: {"red": 2.0, "blue": 3.0}, label="team"),
        ]


@pytest.mark.needs("promtool")
async def test_prometheus_accepts_all_metrics(api: Api) -> None:
    api.mesh.components.append(Pager(api.mesh))
    for _ in range(3):
        await api.finished(agent_id="clerk", payload={"text": "x"})
    await api.submit(agent_id="asker")
    await until(api, "task.waiting")
    found = await metrics(api)
    assert found["meshwright_pager_pages"] == 7 and found['meshwright_pager_teams{team="blue"}'] == 3
    promtool = shutil.which("promtool")
    assert promtool is not None
    async with api.session.get("/metrics", headers=ADMIN) as response:
        text = await response.text()
    command = [promtool, "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


async def test_a_question_that_reached_nobody_is_counted_until_an_approver_lists_it(api: Api) -> None:
    receipt = await api.mesh.get(Tasks).submit(TaskRequest(agent_id="asker", payload={"text": "Ask."}))
    key = (await told_of(api.mesh, "task.waiting")).payload["key"]
    viewer, approver = [await holder(api, "default", role) for role in (Role.CONTENTS, Role.APPROVER)]
    assert (await api.call("GET", "/inbox", headers=viewer))[0] == 200
    [waits] = [wait for wait in (await figures(api))["parked"] if wait["kind"] == "person"]
    assert waits["unreached"] == waits["count"] == 1 and waits["unreached_since"] == waits["oldest"]
    text = await (await api.session.get("/metrics", headers=ADMIN)).text()
    assert 'meshwright_questions_unreached{agent="asker"} 1' in text
    assert re.search(r'^meshwright_questions_unreached_seconds{agent="asker"} [0-9.e-]+$', text, re.M)
    for _ in range(2):
        _, page = await api.call("GET", "/inbox", headers=approver)
        await told_of(api.mesh, "question.reached")
    assert page["items"][0]["reached_by"] == "default-agent"
    [waits] = [wait for wait in (await figures(api))["parked"] if wait["kind"] == "person"]
    assert (waits["unreached"], waits["unreached_since"]) == (0, None)
    text = await (await api.session.get("/metrics", headers=ADMIN)).text()
    assert "meshwright_questions_unreached{" not in text
    reached = await api.mesh.log.query(EventFilter(event_type="question.reached"))
    assert [(event.payload["key"], event.task_id) for event in reached] == [(key, receipt.task_id)]
