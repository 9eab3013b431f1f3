"""The mesh that an agent's author tests with, used as its author would."""

import asyncio
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run, tool
from meshwright.core.errors import PromptError, TaskFailed
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelReply
from meshwright.testing import (
    Faults,
    ManualClock,
    MeshUnderTest,
    ScriptedModel,
    ScriptEnded,
    mesh_for,
    tool_call,
)
from tests.support.settings import load_settings


class Greeter(Agent):
    """Greets people in their own language."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)

    @tool(idempotent=True)
    def language_of(self, name: str) -> str:
        """Say which language somebody speaks."""
        return "French" if name == "Amélie" else "English"


class Host(Agent):
    """Has its guests greeted by the greeter."""

    agent_id = "host"
    capabilities = (Capability("hosting"),)
    delegates_to = ("greeter",)


@pytest.fixture
def agents() -> list[type[Agent]]:
    return [Greeter]


async def test_an_agent_answers_by_its_tools_and_its_model(mesh: MeshUnderTest, model: ScriptedModel) -> None:
    model.replies(tool_call("language_of", name="Amélie"), "Bonjour Amélie !")
    outcome = await mesh.ask("greeter", "Greet Amélie.")
    assert outcome.text == "Bonjour Amélie !"
    assert mesh.events("tool.called").names == ["language_of"]
    assert mesh.events("tool.called")[0].payload["duration_ms"] >= 0
    assert "French" in model.requests[1].messages[-1].content
    assert model.requests[0].user == "greeter"


async def test_one_call_without_a_price_makes_the_cost_unknown(
    mesh: MeshUnderTest, model: ScriptedModel
) -> None:
    model.replies(ModelReply(tool_calls=(tool_call("language_of", name="Bob"),), model="m"), "Hello!")
    assert (await mesh.ask("greeter", "Greet Bob.")).cost_usd is None
    model.replies("Hello!")
    assert (await mesh.ask("greeter", "Greet Bob.")).cost_usd == 0.0


async def test_a_script_that_runs_dry_fails_the_test_and_says_so(mesh: MeshUnderTest) -> None:
    with pytest.raises(ScriptEnded, match="no reply to call 1, by greeter"):
        await mesh.ask("greeter", "Greet Amélie.")


async def test_an_agent_may_delegate_within_the_test() -> None:
    script = ScriptedModel(tool_call("delegate", agent_id="greeter", text="Greet Bob."), "They were greeted.")
    script.replies("Hello Bob!", to="greeter")
    async with mesh_for(Host, Greeter, model=script) as mesh:
        outcome = await mesh.ask("host", "Receive Bob.")
    assert outcome.text == "They were greeted."
    assert [event.agent_id for event in mesh.events("task.succeeded")] == ["greeter", "host"]
    [delegated] = mesh.events("tool.called")
    assert (delegated.payload["result"], delegated.payload["duration_ms"]) == ("Hello Bob!", None)


@pytest.mark.parametrize("number", range(3))
async def test_an_agent_answers_whatever_goes_wrong_beneath_it(seed: int, number: int) -> None:
    faults = Faults(f"{seed}-{number}", duplicate=0.3, delay=0.3, reorder=0.3, restart=0.05)
    script = ScriptedModel()
    script.replies(*["Hello!"] * 60, to="greeter")
    async with mesh_for(Greeter, model=script, faults=faults) as mesh:
        outcomes = [await mesh.ask("greeter", f"Greet number {n}.") for n in range(10)]
    assert [outcome.text for outcome in outcomes] == ["Hello!"] * 10
    assert len(mesh.events("task.succeeded")) == 10


async def test_time_moves_only_by_hand_where_the_clock_is_manual() -> None:
    async with mesh_for(Greeter, clock=ManualClock(), model=ScriptedModel("Hello!")) as mesh:
        outcome = await mesh.ask("greeter", "Greet Bob.")
        before = mesh.mesh.runtime.clock.now()
        await mesh.advance(60)
    assert outcome.completed_at == before
    assert (mesh.mesh.runtime.clock.now() - before).total_seconds() == 60


async def test_a_mesh_on_real_time_cannot_be_moved() -> None:
    async with mesh_for(Greeter) as mesh:
        with pytest.raises(TypeError, match="ManualClock"):
            await mesh.advance(60)


async def test_a_mesh_may_be_set_to_run_in_memory(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, store="memory")
    async with build_mesh(
        settings, project=tmp_path, agents=[Greeter], model=ScriptedModel("Hello!")
    ) as mesh:
        outcome = await mesh.get(Tasks).ask("greeter", "Greet Bob.")
    assert outcome.text == "Hello!"
    assert list(tmp_path.iterdir()) == []


class Worded(Agent):
    """Has its prompt in its class, without front matter."""

    agent_id = "worded"
    capabilities = (Capability("wording"),)
    prompt_text = """
        You word things as {{agent_name}}.
    """


async def test_a_broken_prompt_file_fails_the_test_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "greeter.prompt").write_text("---\ntags: [a]\nvariables: [name]\n---\nHello {{name}}\n")
    async with mesh_for(Greeter, model=ScriptedModel("Hello!"), prompts={"dir": tmp_path}) as mesh:
        with pytest.raises(PromptError, match=r"greeter\.prompt:3: nothing fills in variable 'name'"):
            await mesh.ask("greeter", "Greet Bob.")


async def test_a_missing_prompt_file_of_the_project_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    actors = tmp_path / "actors"
    actors.mkdir()
    (actors / "greeter.py").write_text(
        "from meshwright import Agent, Capability\n\n\nclass Greeter(Agent):\n"
        '    agent_id = "greeter"\n    capabilities = (Capability("greeting"),)\n'
    )
    async with mesh_for(project=tmp_path, model=ScriptedModel("Hello!")) as mesh:
        with pytest.raises(PromptError, match=r"greeter\.prompt: there is no such file"):
            await mesh.ask("greeter", "Greet Bob.")


async def test_prompt_text_needs_no_front_matter(model: ScriptedModel) -> None:
    model.replies("Done.")
    async with mesh_for(Worded, model=model) as mesh:
        await mesh.ask("worded", "Word it.")
    assert "You word things as worded." in str(model.requests[0].messages[0].content)


async def test_a_slip_in_prompt_text_names_the_class_its_file_and_line() -> None:
    slip = type("Slip", (Worded,), {"prompt_text": "Hello.\n{{nobody}}", "__module__": __name__})
    async with mesh_for(slip, model=ScriptedModel("Hello!")) as mesh:
        with pytest.raises(PromptError) as refused:
            await mesh.ask("worded", "Word it.")
    assert "test_mesh_under_test.py: prompt_text of Slip: " in str(refused.value)
    assert "(line 2 of the text)" in str(refused.value)


async def test_a_scripted_model_fits_any_budget() -> None:
    budgets = {"budgets": [{"name": "day", "limit_usd": "5", "window": "day"}]}
    async with mesh_for(Greeter, model=ScriptedModel("Hello!"), ledger=budgets) as mesh:
        outcome = await mesh.ask("greeter", "Greet Bob.")
        assert (outcome.text, outcome.cost_usd) == ("Hello!", 0)


async def test_the_text_of_a_failed_task_is_its_error() -> None:
    async with mesh_for(Greeter, model=ScriptedModel(ModelRefused("no such model"))) as mesh:
        outcome = await mesh.ask("greeter", "Greet Bob.")
        assert not outcome.success
        with pytest.raises(TaskFailed, match=r"greeter did not succeed: .*no such model"):
            print(outcome.text)


class Asker(Agent):
    """Asks a person."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        """Ask, or break."""
        if run.task.payload["text"] == "Break.":
            raise RuntimeError("the printer is on fire")
        return str(await run.ask_person("Whom?"))


async def test_questions_of_a_failed_task_raise_its_error() -> None:
    async with mesh_for(Asker) as mesh:
        await mesh.submit(agent_id="asker", payload={"text": "Break."})
        with pytest.raises(TaskFailed, match="the printer is on fire"):
            await mesh.questions()


async def test_questions_wait_for_a_task_begun_beside_them_after_a_failure() -> None:
    async with mesh_for(Asker) as mesh:
        await mesh.ask("asker", "Break.")
        asking = asyncio.create_task(mesh.ask("asker", "Ask."))
        [question] = await mesh.questions()
        await mesh.answer(question, "Bob")
        assert (await asking).text == "Bob"
