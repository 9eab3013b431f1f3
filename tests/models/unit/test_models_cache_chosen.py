"""Which cache there is: what settings and prompts say, and what its answers are answers of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.agent import Agent
from meshwright.agents.prompts import parse_prompt
from meshwright.core.capability import Capability
from meshwright.core.errors import ConfigError, PromptError
from meshwright.models.cache import cached, open_cache
from meshwright.models.offline_model import OfflineModel
from meshwright.models.port import ModelReply
from meshwright.testing import ManualClock, ScriptedModel, mesh_for
from tests.support.cached_provider import COST, USAGE, Provider, request
from tests.support.settings import Settings


def settings(**given: Any) -> Settings:
    return Settings(**given)


def test_without_a_cache_the_model_stays_as_it_is(tmp_path: Path, clock: ManualClock) -> None:
    model = OfflineModel()
    assert cached(model, settings(), tmp_path, tmp_path / "litellm_config.yaml", clock, kind="http") is model


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_the_settings_name_the_cache(tmp_path: Path, clock: ManualClock, kind: str) -> None:
    store = open_cache(settings(cache=kind), tmp_path, clock)
    assert store is not None and store.name == kind
    model = cached(
        OfflineModel(), settings(cache=kind), tmp_path, tmp_path / "none.yaml", clock, kind="offline"
    )
    await model.complete(request())
    assert (await model.complete(request())).cache_hit
    assert (tmp_path / "cache.db").exists() == (kind == "disk")
    await model.close()


@pytest.mark.parametrize("url", [None, "127.0.0.1:6379", "http://:secret@127.0.0.1"])
def test_a_redis_needs_an_address_which_is_not_repeated(
    tmp_path: Path, clock: ManualClock, url: str | None
) -> None:
    with pytest.raises(ConfigError) as refused:
        open_cache(settings(cache="redis", cache_redis_url=url), tmp_path, clock)
    assert refused.value.field == "cache_redis_url"
    assert "redis://" in refused.value.remedy and "secret" not in str(refused.value)


Change = Callable[[dict[str, Any], Path, dict[str, str]], object]
CHANGES: dict[str, Change] = {
    "server": lambda known, path, environment: known.update(litellm_base_url="http://b"),
    "key": lambda known, path, environment: known.update(litellm_api_key="sk-2"),
    "file": lambda known, path, environment: path.write_text(path.read_text() + "\nmodel_list: []"),
    "variable": lambda known, path, environment: environment.update(OLLAMA_API_BASE="http://two"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_another_server_key_or_file_answered_is_no_hit(
    tmp_path: Path, clock: ManualClock, change: str
) -> None:
    path = tmp_path / "litellm_config.yaml"
    path.write_text("api_base: os.environ/OLLAMA_API_BASE")
    known: dict[str, Any] = {"litellm_base_url": "http://a", "litellm_api_key": "sk-1", "cache": "disk"}
    environment = {"OLLAMA_API_BASE": "http://one"}

    async def is_hit() -> bool:
        chosen = settings(**known)
        model = cached(Provider(), chosen, tmp_path, path, clock, kind="http", environment=environment)
        reply = await model.complete(request())
        await model.close()
        return reply.cache_hit

    assert [await is_hit(), await is_hit()] == [False, True]
    CHANGES[change](known, path, environment)
    assert [await is_hit(), await is_hit()] == [False, True]


def test_a_prompt_says_whether_its_answers_may_come_from_a_cache() -> None:
    assert parse_prompt("x", b"---\ntags: [a]\n---\nHi.").cache
    assert not parse_prompt("x", b"---\ntags: [a]\ncache: false\n---\nHi.").cache
    with pytest.raises(PromptError) as refused:
        parse_prompt("x", b"---\ntags: [a]\ncache: never\n---\nHi.")
    assert (refused.value.line, "cache: false" in refused.value.remedy) == (3, True)


class Fresh(Agent):
    agent_id = "fresh"
    capabilities = (Capability("freshness"),)


def prompts(project: Path, cache: str) -> Path:
    (project / "prompts").mkdir()
    text = f"---\ntags: [a]\ncache: {cache}\n---\nAnswer."
    (project / "prompts" / "fresh.prompt").write_text(text)
    return project


async def test_a_task_like_one_before_it_costs_a_mesh_with_a_cache_nothing(tmp_path: Path) -> None:
    model = ScriptedModel(ModelReply(content="Nothing.", model="m", cost_usd=COST, usage=USAGE))
    async with mesh_for(
        Fresh, model=model, project=prompts(tmp_path, "true"), models={"cache": "memory"}
    ) as mesh:
        outcomes = [await mesh.ask("fresh", "Anything new?") for _ in range(2)]
        told = mesh.events("model.called").payloads
    assert [(outcome.text, outcome.cost_usd) for outcome in outcomes] == [("Nothing.", COST), ("Nothing.", 0)]
    assert [(each["cache_hit"], each["saved_usd"]) for each in told] == [(False, None), (True, str(COST))]


async def test_an_agent_whose_prompt_wants_no_cache_asks_anew(tmp_path: Path) -> None:
    model = ScriptedModel("one", "two")
    async with mesh_for(
        Fresh, model=model, project=prompts(tmp_path, "false"), models={"cache": "memory"}
    ) as mesh:
        assert [(await mesh.ask("fresh", "Anything new?")).text for _ in range(2)] == ["one", "two"]
