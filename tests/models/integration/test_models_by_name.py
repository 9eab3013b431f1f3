"""Agents that name their model: who answers beside the groups of the mesh, and what it costs."""

import gc
import importlib.util
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Outcome, create_agent, create_router_agent
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Usage
from meshwright.core.money import Price
from meshwright.mesh.app import build_mesh
from meshwright.models.offline_model import OfflineModel
from meshwright.models.overview import Deployments
from meshwright.models.picker import Picker
from meshwright.models.port import Model, ModelReply
from meshwright.models.select import NamedModels, adapter_for, with_named_models
from meshwright.models.server import HttpModel
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for
from tests.models.unit.test_providers import twice
from tests.support.fake_provider import FakeProvider, Fault, tool_call
from tests.support.named_models import KEY, at_fakes, request
from tests.support.settings import load_settings

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None, reason="needs LiteLLM: pip install -e '.[litellm]'"
    ),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]


@pytest.fixture
def environment(fake: FakeProvider, other: FakeProvider) -> dict[str, str]:
    return at_fakes(fake, other)


async def test_the_mesh_answers_by_name_beside_its_own_groups(
    fake: FakeProvider, environment: dict[str, str]
) -> None:
    own = ScriptedModel("of the mesh")
    model = with_named_models(
        adapter_for(own), [create_agent("gpt-5.4"), create_agent("offline")], environment=environment
    )
    try:
        named = await model.complete(request("gpt-5.4"))
        offline = await model.complete(request("offline"))
        others = await model.complete(request("default"))
    finally:
        await model.close()
    assert named.content.startswith("fake-openai")
    assert offline.model.startswith("offline")
    assert others.content == "of the mesh"
    assert model.name == "scripted; by name offline, gpt-5.4"


def test_a_mesh_whose_agents_name_nothing_has_its_model_alone() -> None:
    own = adapter_for(ScriptedModel())
    assert with_named_models(own, []) is own


def test_a_server_is_asked_for_every_name_as_it_stands() -> None:
    server = HttpModel("http://127.0.0.1:4000")
    assert with_named_models(server, [create_agent("claude-sonnet-4-6")], environment={}) is server
    own = with_named_models(server, [create_agent("gpt-5.4", api_key=KEY, agent_id="own")], environment={})
    assert own.name.endswith("by name gpt-5.4")
    with pytest.raises(ConfigError, match=r"timeout.*LITELLM_BASE_URL"):
        with_named_models(server, [create_agent("gpt-5.4", timeout=30)], environment={})


async def test_a_name_that_is_a_group_is_that_group(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "litellm_config.yaml"
    path.write_text(
        "model_list: [{model_name: gpt-5.4, litellm_params: "
        "{model: openai/gpt-5.4, api_key: os.environ/OPENAI_API_KEY}}]"
    )
    router = Picker(path, environment=environment)
    assert with_named_models(router, [create_agent("gpt-5.4")], environment={}) is router
    with pytest.raises(ConfigError, match="is a group"):
        with_named_models(router, [create_router_agent(["gpt-5.4", "deepseek/m"])], environment=environment)
    with pytest.raises(ConfigError, match=r"a timeout to 'gpt-5\.4', which is a group"):
        with_named_models(router, [create_agent("gpt-5.4", timeout=30)], environment=environment)
    offline = OfflineModel()
    assert with_named_models(offline, [create_agent("gpt-5.4")], path, environment={}) is offline


async def test_agents_that_give_one_model_different_fallbacks_are_refused(
    environment: dict[str, str],
) -> None:
    agents = [create_agent("gpt-5.4"), create_router_agent(["gpt-5.4", "deepseek/m"], agent_id="other")]
    with pytest.raises(ConfigError, match="different fallbacks"):
        with_named_models(adapter_for(ScriptedModel()), agents, environment=environment)


async def test_a_named_model_has_its_own_price_and_its_fallbacks_the_dearest_counts(
    environment: dict[str, str],
) -> None:
    agents = [create_router_agent(["gpt-5.4-nano", "gpt-5.4", "deepseek/m"]), create_agent("offline")]
    model = with_named_models(adapter_for(ScriptedModel()), agents, environment=environment)
    default = Price(input=Decimal("0.5"), output=Decimal(90))
    prices = model.prices(default)
    named = prices.upper_bound(request("gpt-5.4-nano", tags=("research",)), 10)
    assert named == Price(input=Decimal("2.5"), output=Decimal(90))
    assert prices.upper_bound(request("offline")) == Price(input=Decimal(0), output=Decimal(0))
    assert prices.upper_bound(request("default")) == default
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=0)
    reply = ModelReply(model="gpt-5.4-nano", usage=usage)
    assert prices.reply_cost(reply, request("gpt-5.4-nano")) == Decimal("0.2")


async def test_each_model_is_closed_once() -> None:
    closed: list[str] = []

    class Counted(OfflineModel):
        async def close(self) -> None:
            closed.append(self.name)

    one = Counted()
    await NamedModels({"a": one, "b": one}, one).close()
    assert closed == ["offline"]


async def test_testing_named_models_keeps_the_servers_connection(tmp_path: Path, fake: FakeProvider) -> None:
    model = NamedModels({"offline": OfflineModel()}, HttpModel(fake.url))
    try:
        await model.complete(request("default"))
        tested = await Deployments(model, tmp_path / "none.yaml", None).test(None)
        await model.complete(request("default"))
    finally:
        await model.close()
    assert all(result["ok"] for result in tested)
    assert fake.calls[0].peer == fake.calls[-1].peer


class Poet(Agent):
    """Answers in verse."""

    agent_id = "poet"
    capabilities = (Capability("verse"),)
    model = "openai/gpt-5.4"


@pytest.fixture
def surroundings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, as a mesh finds it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


async def outcome_of(project: Path, agent: type[Agent], text: str) -> Outcome:
    settings = load_settings(project, store="memory")
    async with build_mesh(settings, project=project, agents=[agent]) as mesh:
        return await MeshUnderTest(mesh, mesh.get(Model), None, [agent]).ask(agent.agent_id, text)


@pytest.mark.usefixtures("surroundings")
async def test_an_agent_is_answered_by_the_model_that_it_names(tmp_path: Path, fake: FakeProvider) -> None:
    outcome = await outcome_of(tmp_path, Poet, "Sing.")
    assert outcome.error is None
    assert outcome.text.startswith("fake-openai answers")
    assert fake.calls[-1].body["model"] == "gpt-5.4"
    assert KEY not in str(outcome)


@pytest.mark.usefixtures("surroundings")
async def test_an_agent_that_is_made_says_its_instructions_and_uses_its_tools(
    tmp_path: Path, fake: FakeProvider
) -> None:
    fake.replies.extend([tool_call("twice", '{"number": 4}'), {"content": "It is 8."}])
    agent = create_agent("gpt-5.4", instructions="You double numbers.", tools=[twice])
    outcome = await outcome_of(tmp_path, agent, "Double 4.")
    first, last = (each.body for each in fake.calls[-2:])
    assert outcome.text == "It is 8."
    assert first["messages"][0]["content"].startswith("You double numbers.")
    assert last["messages"][-1]["content"] == "8"


@pytest.mark.usefixtures("surroundings")
async def test_an_agent_of_several_models_is_answered_by_the_next(
    tmp_path: Path, fake: FakeProvider, other: FakeProvider
) -> None:
    fake.faults.append(Fault(status=500))
    outcome = await outcome_of(tmp_path, create_router_agent(["gpt-5.4", "deepseek/m"]), "Sing.")
    assert outcome.success
    assert (len(fake.calls), len(other.calls)) == (1, 1)


async def test_an_agent_of_one_model_with_two_keys_is_answered_by_the_second(
    tmp_path: Path, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    fake.faults.extend([Fault(status=401)])
    bases = {"model": "gpt-5.4", "api_base": f"{fake.url}/v1"}
    agent = create_router_agent([{**bases, "api_key": KEY}, {**bases, "api_key": f"{KEY}-2"}], timeout=30)
    outcome = await outcome_of(tmp_path, agent, "Sing.")
    assert outcome.success, outcome
    keys = [call.headers["Authorization"] for call in fake.calls]
    assert keys == [f"Bearer {KEY}", f"Bearer {KEY}-2"]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in caplog.text + str(outcome) and KEY.encode() not in stored


@pytest.mark.parametrize(("num_retries", "calls"), [(0, 1), (3, 4)])
async def test_a_failed_call_is_retried_as_often_as_its_agent_says(
    tmp_path: Path, fake: FakeProvider, num_retries: int, calls: int
) -> None:
    fake.faults.extend([Fault(status=500)] * 4)
    agent = create_agent(
        "gpt-5.4", api_key=KEY, api_base=f"{fake.url}/v1", timeout=30, num_retries=num_retries
    )
    settings = load_settings(tmp_path, store="memory", models={"park": False})
    async with build_mesh(settings, project=tmp_path, agents=[agent]) as mesh:
        outcome = await MeshUnderTest(mesh, mesh.get(Model), None, [agent]).ask(agent.agent_id, "Sing.")
    assert (outcome.success, len(fake.calls)) == (False, calls)


@pytest.mark.usefixtures("surroundings")
async def test_an_agent_spends_no_more_than_it_may(tmp_path: Path, fake: FakeProvider) -> None:
    poor = await outcome_of(
        tmp_path, create_agent("gpt-5.4", agent_id="poor", max_budget="0.000001"), "Sing."
    )
    assert poor.error is not None
    assert poor.error.type == "BudgetExceeded"
    assert fake.calls == []
    rich = await outcome_of(tmp_path, create_agent("gpt-5.4", agent_id="rich", max_budget="5"), "Sing.")
    assert rich.cost_usd == (11 * Decimal("2.5") + 7 * Decimal(15)) / 1_000_000


async def test_a_prompt_file_is_stronger_than_instructions(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "clerk.prompt").write_text("---\ntags: [default]\n---\nFrom the file.\n")
    agent = create_agent("offline", agent_id="clerk", instructions="From the code.")
    model = ScriptedModel("Done.")
    async with mesh_for(agent, model=model, project=tmp_path) as mesh:
        await mesh.ask("clerk", "Go.")
    asked = model.requests[-1]
    assert (asked.messages[0].content, asked.model) == ("From the file.", "offline")


def test_a_mesh_says_at_once_what_an_agent_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"agent poet: .*OPENAI_API_KEY"):
        build_mesh(load_settings(tmp_path, store="memory"), project=tmp_path, agents=[Poet])
    gc.collect()  # nothing was opened that would be found open now


async def test_where_the_settings_say_offline_nobody_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = load_settings(tmp_path, store="memory", model="offline")
    async with build_mesh(settings, project=tmp_path, agents=[Poet]) as mesh:
        assert (
            await MeshUnderTest(mesh, mesh.get(Model), None, [Poet]).ask("poet", "Sing.")
        ).model == "offline"


async def test_an_agent_may_name_a_group_where_no_key_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "litellm_config.yaml").write_text(
        "model_list: [{model_name: quality, litellm_params: "
        "{model: openai/gpt-5.4, api_key: os.environ/OPENAI_API_KEY}}]"
    )
    assert (await outcome_of(tmp_path, create_agent("quality"), "Sing.")).model == "offline"
