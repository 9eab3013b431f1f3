"""Figures say what is: why tasks do not succeed, how many failed, which calls were not sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.support.fake_openai import FakeOpenAI
from tests.support.page import reader
from tests.support.running_mesh import mesh, mesh_up

pytestmark = pytest.mark.needs("chromium")
PRICE = "input_cost_per_token: 0.000003, output_cost_per_token: 0.000015"
MODELS = """
model_list:
  - model_name: default
    litellm_params: {{ model: openai/here, api_base: "{url}/v1", api_key: x, {price} }}
  - model_name: flaky
    litellm_params: {{ model: openai/gone, api_base: "http://127.0.0.1:1/v1", api_key: x, {price} }}
"""
SETTINGS = """
[[ledger.budgets]]
name = "analysts"
scope = "agent"
of = "analyst"
limit_usd = "0.0001"
window = "day"
on_empty = "wait"
"""
ACTORS = """
from meshwright import Agent, Capability, Run


class Translator(Agent):
    agent_id = "translator"
    capabilities = (Capability("translating"),)
    prompt_text = "Translate."
    model = "flaky"


class Analyst(Agent):
    agent_id = "analyst"
    capabilities = (Capability("analysing"),)
    prompt_text = "Analyse."


class Notifier(Agent):
    agent_id = "notifier"
    capabilities = (Capability("notifying"),)

    async def run(self, run: Run) -> str:
        raise ValueError("no pager")


class Greeter(Agent):
    agent_id = "greeter"
    capabilities = (Capability("greeting"),)

    async def run(self, run: Run) -> str:
        return "Good morning."
"""
STATES = {
    "translator": "blocked: no model",
    "analyst": "no money",
    "notifier": "failing: 3 of 3",
    "greeter": "well",
}


async def test_agents_that_can_do_nothing_are_not_well(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/agents.py").write_text(ACTORS)
    (tmp_path / "mesh.toml").write_text(SETTINGS)
    async with FakeOpenAI() as provider:
        config = MODELS.format(url=provider.url, price=PRICE)
        (tmp_path / "litellm_config.yaml").write_text(config)
        async with mesh_up(tmp_path / "data", cwd=tmp_path) as up:
            failed = [await up.client.submit("notifier", "Page them.") for _ in range(3)]
            for receipt in failed:
                await up.client.outcome(receipt.task_id)
            await up.client.outcome((await up.client.submit("greeter", "Greet.")).task_id)
            analysed = await up.client.submit("analyst", "Analyse.")
            for text in ("One.", "Two."):  # the second meets an open circuit
                await up.client.submit("translator", text)
                await up.until(lambda event: is_waiting(event, "translator"))
            await up.until(
                lambda event: event["task_id"] == analysed.task_id and is_waiting(event, "analyst")
            )
            await up.until(is_unsent)
            text = (await mesh("status", "--url", up.url)).out
            figures = json.loads((await mesh("status", "--json", "--url", up.url)).out)["figures"]
            metrics = await (await up.session.get(f"{up.url}/metrics")).text()
            async with reader(browser, f"{up.url}/#/agents") as person:
                banner = person.page.locator(".health")
                await expect(banner).to_contain_text("3 tasks have failed since")
                await expect(banner).to_contain_text("all of notifier")
                for agent_id, state in STATES.items():
                    row = person.page.get_by_role("row", name=agent_id)
                    await expect(row.locator(".status")).to_have_text(state)
                await person.page.goto(f"{up.url}/#/mesh")
                await expect(person.page.get_by_role("link", name="agents well")).to_contain_text("1 of 4")
    assert {agent["agent_id"]: agent["state"] for agent in figures["agents"]} == STATES
    assert "3 tasks have failed since" in text and "all of notifier: mesh dead-letters" in text
    assert {model["deployment"] for model in figures["models"]} == {
        "default/openai/here",
        "flaky/openai/gone",
    }
    assert figures["unsent_calls"].keys() == {"flaky"} and "calls not sent" in text
    assert 'deployment="flaky"' not in metrics


def is_waiting(event: dict[str, Any], agent_id: str) -> bool:
    return event["event_type"] == "task.waiting" and event["agent_id"] == agent_id


def is_unsent(event: dict[str, Any]) -> bool:
    payload = event["payload"]
    is_failed = event["event_type"] == "model.called" and payload["outcome"] == "failed"
    return is_failed and not payload.get("failed_at")
