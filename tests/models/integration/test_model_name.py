"""A server that is no LiteLLM proxy answers every agent, by the one setting that names its model."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import Model
from meshwright.money.costs import CostQuery
from meshwright.money.spending import Spending
from tests.support.fake_provider import FakeProvider, tool_call
from tests.support.running_mesh import mesh
from tests.support.settings import load_settings

ROOT = Path(__file__).resolve().parents[3]
MODEL = "llama3.1"


@pytest.fixture
def strict(fake: FakeProvider) -> FakeProvider:
    """A server that has one model, and refuses what OpenAI does not know."""
    fake.only = MODEL
    return fake


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_shipped_agents_work_with_a_strict_server(
    strict: FakeProvider, tmp_path: Path, stream: bool
) -> None:
    settings: dict[str, Any] = {"litellm_base_url": strict.url, "model_name": MODEL, "stream": stream}
    settings |= {"default_price": {"input": 1, "output": 2}, "data_dir": tmp_path}
    strict.replies.extend([tool_call("glob", '{"pattern": "*.md"}'), {"content": "There is README.md."}])
    async with build_mesh(load_settings(ROOT, **settings), project=ROOT) as running:
        assert running.get(Model).name == f"http {strict.url} (every call is of {MODEL})"
        outcome = await running.get(Tasks).ask("researcher-agent", "Which files are there?")
        costs = await running.get(Spending).costs(CostQuery("default", "model"))
    assert (outcome.text, outcome.error) == ("There is README.md.", None)
    assert {call.body["model"] for call in strict.calls} == {MODEL}
    assert {call.body["user"] for call in strict.calls} == {"researcher-agent"}
    assert costs.total.cost_usd == Decimal(len(strict.calls) * (11 + 2 * 7)) / 1_000_000


@pytest.mark.parametrize("named", ["ollama/llama3.1", "hosted_vllm/llama3.1"])
async def test_one_name_of_a_model_is_enough_for_every_agent(
    strict: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    for variable in ("OLLAMA_API_BASE", "HOSTED_VLLM_API_BASE"):
        monkeypatch.setenv(variable, strict.url)
    strict.replies.extend([tool_call("glob", '{"pattern": "*.md"}'), {"content": "There is README.md."}])
    async with build_mesh(load_settings(ROOT, model=named, data_dir=tmp_path), project=ROOT) as running:
        assert running.get(Model).name == f"model {named}"
        outcome = await running.get(Tasks).ask("researcher-agent", "Which files are there?")
        assert (await running.get(Tasks).ask("simple-agent", "Hello")).error is None
    assert (outcome.text, outcome.error) == ("There is README.md.", None)
    assert {call.body["model"] for call in strict.calls} == {MODEL}


async def test_the_variable_mesh_model_names_it_without_a_warning(
    strict: FakeProvider, tmp_path: Path
) -> None:
    environment = {"MESH_MODEL": "ollama/llama3.1", "OLLAMA_API_BASE": strict.url}
    done = await mesh("models", "test", "--data", str(tmp_path), **environment)
    assert (done.status, done.err) == (0, ""), done
    assert done.out.splitlines()[1].split()[:2] == ["ollama/llama3.1", "ok"]


async def test_without_the_name_the_server_says_which_field_it_refuses(
    strict: FakeProvider, tmp_path: Path
) -> None:
    settings = load_settings(ROOT, litellm_base_url=strict.url, data_dir=tmp_path)
    async with build_mesh(settings, project=ROOT) as running:
        outcome = await running.get(Tasks).ask("simple-agent", "Hello")
    assert outcome.error is not None
    assert "it said: fake_error: Unknown parameter: 'cache'" in outcome.error.message
