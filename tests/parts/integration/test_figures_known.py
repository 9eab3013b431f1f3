"""The figures of a mesh of which the truth is known: each surface says the same numbers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as published
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from meshwright import create_agent
from meshwright.core.access import Role
from meshwright.engine.events.filter import EventFilter
from meshwright.models.providers import convention_name
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh
from tests.support.tenants import Asker, holder

SLOTS, OPEN, FAILED, ANSWERED = 2, 9, 3, 4
PRICES = {"east": (Decimal("1e-6"), Decimal("2e-6")), "west": (Decimal("3e-6"), Decimal("5e-6"))}
TOKENS = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
COST = {name: 100 * asked + 10 * answered for name, (asked, answered) in PRICES.items()}


def deployment(fake: FakeProvider, name: str, group: str) -> dict[str, Any]:
    asked, answered = map(float, PRICES[name])
    params = {"model": f"openai/{name}", "api_base": fake.at(name), "api_key": "k"}
    prices = {"input_cost_per_token": asked, "output_cost_per_token": answered}
    return {"model_name": group, "litellm_params": params, "model_info": {"id": name, **prices}}


@pytest.fixture
async def api(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Api]:
    """Two of nine tasks run, one waits for a person, three have failed; two of four calls fell back."""
    fake.usage = TOKENS
    config = {
        "model_list": [deployment(fake, "east", "default"), deployment(fake, "west", "spare")],
        "router_settings": {
            "num_retries": 0, "allowed_fails": 0, "cooldown_time": 600, "fallbacks": [{"default": ["spare"]}],
        },
    }  # fmt: skip
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    poet = create_agent("default", agent_id="poet")
    async with http_mesh(tmp_path, Asker, poet, model="router", max_concurrency=SLOTS) as api:
        for number in range(ANSWERED):
            if number == ANSWERED - 2:
                fake.faults_of["east"].append(Fault(status=401))
            await api.finished(agent_id="poet", payload={"text": "Sing."})
        for _ in range(FAILED):
            await api.finished(agent_id="echo", payload={"text": "x", "fail": True})
        for _ in range(OPEN):
            await api.submit(agent_id="gate")
        await api.submit(agent_id="asker")
        seen = {"task.started": ANSWERED + FAILED + SLOTS + 1, "task.waiting": 1}
        for event_type, count in seen.items():
            events = api.mesh.log.tail(EventFilter(event_type=event_type, after_seq=0))
            for _ in range(count):
                await anext(events)
            await events.aclose()
        yield api


async def test_every_surface_says_the_figures_that_are_known(api: Api) -> None:
    found = await api.get("/figures")
    agents = {agent["agent_id"]: agent for agent in found["agents"]}
    loads = {
        name: tuple(agent[state] for state in ("waiting", "running", "parked", "slots"))
        for name, agent in agents.items()
    }
    assert loads == {"gate": (7, 2, 0, 2), "asker": (0, 0, 1, 2), "echo": (0, 0, 0, 2), "poet": (0, 0, 0, 2)}
    assert [agents[name]["success"] for name in ("poet", "echo", "gate")] == [1.0, 0.0, None]
    assert agents["gate"]["oldest"] and agents["poet"]["oldest"] is None
    assert [agents[name]["rate"] for name in ("poet", "echo")] == [ANSWERED / 5, FAILED / 5]
    assert all(agents["poet"][share] > 0 for share in ("p50_seconds", "p90_seconds"))

    cost = 2 * COST["east"] + 2 * COST["west"]
    poet = agents["poet"]
    assert (Decimal(poet["cost_today_usd"]), poet["calls_today"], poet["unpriced_today"]) == (cost, 4, 0)
    models = {model["deployment"]: model for model in found["models"]}
    counts = ("calls", "failed", "fallbacks")
    assert {name: tuple(model[count] for count in counts) for name, model in models.items()} == {
        "east": (3, 1, 0),  # the attempt that failed is east's, though west answered
        "west": (2, 0, 2),
    }
    assert (models["east"]["errors"], models["west"]["errors"]) == ({"Unauthorized": 1}, {})
    costs = await api.get("/costs", by="deployment")
    assert {item["key"]: Decimal(item["cost_usd"]) for item in costs["items"]} == {
        name: 2 * cost for name, cost in COST.items()
    }
    assert (models["east"]["well"], models["west"]["well"]) == (False, True)
    assert models["east"]["until"] and models["east"]["reason"]
    assert all(model["p90_seconds"] > 0 for model in models.values())

    assert found["dead_letters"] == {"failed": FAILED, "timed_out": 0, "messages": 0}
    [parked] = found["parked"]
    assert (parked["agent_id"], parked["kind"], parked["count"]) == ("asker", "person", 1)
    [worker] = found["workers"]
    assert (worker["lease"], worker["running"], worker["waiting"]) == ("held", SLOTS, OPEN - SLOTS)
    assert 0 < found["disk"]["free_bytes"] < found["disk"]["total_bytes"]
    assert found["disk"]["store_bytes"] > 0 and found["stuck"] == []


async def test_metrics_scalers_and_the_command_line_say_the_same(api: Api) -> None:
    async with api.session.get("/metrics") as response:
        lines = [line for line in (await response.text()).splitlines() if line[0] != "#"]
    metrics = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    known = {
        'tasks{agent="gate",state="waiting"}': 7,
        'tasks{agent="gate",state="running"}': 2,
        'tasks{agent="asker",state="parked"}': 1,
        'waits{agent="asker",kind="person"}': 1,
        'agent_slots{agent="gate"}': 2,
        'agent_success_ratio{agent="echo"}': 0,
        'dead_letter_tasks{status="failed"}': 3,
        'dead_letters_total{kind="task"}': 3,
        'deployment_up{deployment="east"}': 0,
        'deployment_up{deployment="west"}': 1,
        'deployment_fallback_ratio{deployment="west"}': 1,
        'deployment_failed_ratio{deployment="east"}': 1 / 3,
        'deployment_failed_ratio{deployment="west"}': 0,
        'deployment_errors_total{deployment="east",error="Unauthorized"}': 1,
        'workers{store="sqlite",lease="held"}': 1,
    }
    assert {name: metrics[f"meshwright_{name}"] for name in known} == pytest.approx(known)
    spent = metrics['meshwright_model_cost_usd_total{agent="poet"}']
    assert spent == pytest.approx(float(2 * COST["east"] + 2 * COST["west"]), abs=1e-12)
    for app in ("gate", "mesh"):
        assert await api.get(f"/scale/{app}") == {"app": app, "value": 9, "waiting": 7, "running": 2}
    assert (await api.get("/scale/asker"))["value"] == 0

    shown = await mesh("status", "--url", api.url)
    assert re.search(r"^gate +well +7 +[^/]* +2/2$", shown.out, re.MULTILINE), shown
    assert re.search(r"^asker +well +0/2 +1$", shown.out, re.MULTILINE), shown
    assert "dead letters: 3 tasks failed" in shown.out
    assert re.search(r"^east +no, next try in \d+ s +3 +33%", shown.out, re.MULTILINE), shown
    assert len(re.findall("^deployment ", shown.out, re.MULTILINE)) == 1, shown
    costs = await mesh("costs", "--by", "deployment,agent", "--url", api.url)
    assert re.search(r"^west +poet +2 ", costs.out, re.MULTILINE), costs
    as_json = json.loads((await mesh("status", "--json", "--url", api.url)).out)["figures"]
    served = await api.get("/figures")
    for name in ("agents", "parked", "dead_letters", "stuck"):
        assert as_json[name] == served[name]


async def test_a_deployment_that_always_fails_has_failed_calls(fake: FakeProvider, tmp_path: Path) -> None:
    fake.faults_of["east"].extend(Fault(status=401) for _ in range(10))
    config = {"model_list": [deployment(fake, "east", "default")]}
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    poet = create_agent("default", agent_id="poet")
    async with http_mesh(tmp_path, poet, model="router", models={"park": False}) as api:
        await api.finished(agent_id="poet", payload={"text": "Sing."})
        [model] = (await api.get("/figures"))["models"]
        costs = await api.get("/costs", by="deployment")
        async with api.session.get("/metrics") as response:
            metrics = await response.text()
    assert (model["deployment"], model["calls"], model["failed"]) == ("east", 1, 1)
    assert 'meshwright_deployment_failed_ratio{deployment="east"} 1' in metrics
    assert 'meshwright_deployment_errors_total{deployment="east",error="Unauthorized"} 1' in metrics
    assert [(item["key"], item["failed"]) for item in costs["items"]] == [("east", 1)]


async def test_a_server_with_one_model_is_one_deployment(fake: FakeProvider, tmp_path: Path) -> None:
    poet = create_agent("default", agent_id="poet")
    options = {"model": "http", "litellm_base_url": fake.url, "model_name": "gemma"}
    async with http_mesh(tmp_path, poet, models={"park": False}, **options) as api:
        await api.finished(agent_id="poet", payload={"text": "Sing."})
        fake.faults.append(Fault(status=401))
        await api.finished(agent_id="poet", payload={"text": "Sing again."})
        [model] = (await api.get("/figures"))["models"]
        costs = await api.get("/costs", by="deployment")
    assert (model["deployment"], model["calls"], model["failed"], model["well"]) == ("gemma", 2, 1, False)
    assert [(item["key"], item["calls"], item["failed"]) for item in costs["items"]] == [("gemma", 2, 1)]


async def test_the_health_of_a_deployment_is_its_own_where_another_answered(
    fake: FakeProvider, tmp_path: Path
) -> None:
    fake.faults_of["east"].append(Fault(status=500))
    config = {
        "model_list": [deployment(fake, "east", "default"), deployment(fake, "west", "spare")],
        "router_settings": {"num_retries": 0, "fallbacks": [{"default": ["spare"]}]},
    }
    (tmp_path / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    poet = create_agent("default", agent_id="poet")
    async with http_mesh(tmp_path, poet, model="router") as api:
        await api.finished(agent_id="poet", payload={"text": "Sing."})
        listed = await mesh("models", "list", "--json", "--url", api.url)
        [called] = await api.mesh.log.query(EventFilter(event_type="model.called"))
        figures = await api.get("/figures")
    groups = json.loads(listed.out)["groups"]
    health = {row["deployment"]: row["health"]["status"] for group in groups for row in group["deployments"]}
    assert health == {"east": "ModelUnavailable", "west": "ok"}
    attempts = (called.fields["failed_at"], called.fields["failed_with"])
    assert attempts == (["east"], ["ModelUnavailable"])
    assert [(model["deployment"], model["errors"]) for model in figures["models"]] == [
        ("east", {"ModelUnavailable": 1}),
        ("west", {}),
    ]


async def test_calls_through_a_proxy_are_summed_by_its_deployments(
    fake: FakeProvider, tmp_path: Path
) -> None:
    poet = create_agent("default", agent_id="poet")
    async with http_mesh(tmp_path, poet, model="http", litellm_base_url=fake.url) as api:
        for name, cost in (("d-cheap", "0.00004"), ("d-exp", "0.0013")):
            fake.headers, fake.usage = {"x-litellm-model-id": name}, {**TOKENS, "cost": float(cost)}
            await api.finished(agent_id="poet", payload={"text": "Sing."})
        costs = await api.get("/costs", by="deployment")
    assert [(item["key"], item["cost_usd"]) for item in costs["items"]] == [
        ("d-exp", "0.0013"),
        ("d-cheap", "0.00004"),
    ]


async def test_calls_of_models_have_the_published_names(api: Api) -> None:
    async with api.session.get("/metrics") as response:
        lines = [line for line in (await response.text()).splitlines() if line.startswith("gen_ai_")]
    metrics = {re.sub(r"(_bucket|_sum|_count)?{.*", "", line) for line in lines}
    names = {"duration.seconds", "operation.input_tokens", "operation.output_tokens"}
    assert metrics == {f"gen_ai.client.inference.{name}".replace(".", "_") for name in names}
    labels = dict(re.findall(r'(\w+)="([^"]*)"', " ".join(lines)))
    assert labels.pop("le")
    known = {value for name, value in vars(published).items() if name.startswith("GEN_AI_")} | {ERROR_TYPE}
    assert labels.keys() <= {name.replace(".", "_") for name in known if isinstance(name, str)}
    assert (labels["gen_ai_provider_name"], labels["gen_ai_operation_name"]) == ("openai", "chat")


def test_providers_have_their_published_names() -> None:
    names = {value.value for value in published.GenAiProviderNameValues}
    models = ("gpt-5.4", "azure/m", "bedrock/m", "gemini/m", "vertex_ai/m", "mistral/m", "xai/m", "groq/m")
    assert {convention_name(model) for model in models} <= names
    assert convention_name("a-model-of-ours") == "" and convention_name("ollama/m") == "ollama"


async def test_trends_count_what_ended_and_what_was_called(api: Api) -> None:
    trends = await api.get("/figures/trends", hours=2)
    agents = {agent["agent_id"]: agent["hours"] for agent in trends["agents"]}
    ends = ("succeeded", "failed", "timed_out", "cancelled")
    assert {
        name: tuple(sum(hour[end] for hour in hours) for end in ends) for name, hours in agents.items()
    } == {"poet": (ANSWERED, 0, 0, 0), "echo": (0, FAILED, 0, 0)}
    for hour in agents["echo"]:
        until = datetime.fromisoformat(hour["time"]) + timedelta(hours=1, microseconds=-1)
        times = {"since": hour["time"], "until": until.isoformat()}
        listed = await api.get("/tasks", agent_id="echo", status="failed", **times)
        assert len(listed["items"]) == hour["failed"]

    models = {model["deployment"]: model for model in trends["models"]}
    east, west = models["east"], models["west"]
    assert (east["calls"], east["errors"], west["calls"], west["errors"]) == (3, {"Unauthorized": 1}, 2, {})
    assert sum(hour["failed"] for hour in east["hours"]) == 1
    assert (east["replaced_by"], west["in_place_of"]) == ({"west": 2}, {"east": 2})
    assert (east["in_place_of"], west["replaced_by"]) == ({}, {})
    assert (Decimal(west["cost_usd"]), west["unpriced"]) == (2 * COST["west"], 0)
    assert (west["group"], west["model"], west["p95_seconds"] > 0) == ("spare", "openai/west", True)
    assert trends["is_cut"] is False

    tenant = await holder(api, "other", Role.VIEWER)
    _, of_tenant = await api.call("GET", "/figures/trends", headers=tenant)
    assert (of_tenant["agents"], of_tenant["models"]) == ([], [])


async def test_flows_count_who_gave_tasks_to_whom(api: Api) -> None:
    flows = await api.get("/figures/flows", minutes=60)
    edges = {(flow["source"], flow["target"]): (flow["count"], flow["failed"]) for flow in flows["items"]}
    assert flows["minutes"] == 60
    assert edges == {
        (None, "poet"): (ANSWERED, 0),
        (None, "echo"): (FAILED, FAILED),
        (None, "gate"): (OPEN, 0),
        (None, "asker"): (1, 0),
        ("poet", None): (ANSWERED, 0),
    }
    tenant = await holder(api, "other", Role.VIEWER)
    _, of_tenant = await api.call("GET", "/figures/flows", headers=tenant)
    assert of_tenant["items"] == []
