"""Tasks, events and costs are found by the prompt of their calls of models, or by one version of it."""

import hashlib
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Client
from meshwright.agents.prompts import PromptSources
from meshwright.core.errors import NotFound
from meshwright.testing import ScriptedModel, mesh_for

OLD, NEW = [f"---\ntags: [a]\n---\nKeep{ending}" for ending in (" it.", " it well.")]
VERSIONS = [f"keeper@{hashlib.sha256(text.encode()).hexdigest()[:12]}" for text in (OLD, NEW)]


class Keeper(Agent):
    """Answers at once."""

    agent_id = "keeper"
    capabilities = (Capability("keeping"),)


class Idler(Agent):
    """Answers at once, too."""

    agent_id = "idler"
    capabilities = (Capability("idling"),)
    prompt_text = "Idle."


async def test_versions_of_a_prompt_are_told_apart_by_api_and_client(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    file = tmp_path / "prompts/keeper.prompt"
    file.write_text(OLD)
    model = ScriptedModel("Kept.", "Idled.", "Kept.")
    async with mesh_for(Keeper, Idler, model=model, project=tmp_path) as mesh:
        client = Client.local(mesh.mesh)
        with pytest.raises(NotFound, match=r"'keper'.*Did you mean keeper\?"):
            await client.tasks(prompt="keper")
        assert await client.tasks(prompt="keeper") == []  # no call was made with it so far
        first = await mesh.ask("keeper", "notes")
        await mesh.ask("idler", "x")
        file.write_text(NEW)
        mesh.mesh.get(PromptSources).reload()
        second = await mesh.ask("keeper", "more notes")

        assert [first.prompt, second.prompt] == [f"{version} prompts/keeper.prompt" for version in VERSIONS]
        both = [task.task_id for task in await client.tasks(prompt="keeper")]
        assert both == [second.task_id, first.task_id]
        for outcome, version in ((first, VERSIONS[0]), (second, VERSIONS[1])):
            for named in (version, version[:-4], outcome.prompt):
                assert [task.task_id for task in await client.tasks(prompt=named)] == [outcome.task_id]
            events = await client.events(prompt=version, event_type="model.called")
            assert [event.task_id for event in events] == [outcome.task_id]
            assert (await client.costs("task", prompt=version)).items[0].key == outcome.task_id
        costs = await client.costs("prompt", prompt="keeper")
        assert {item.key: item.calls for item in costs.items} == dict.fromkeys(VERSIONS, 1)
        assert await client.cancel_all(prompt="keeper", dry_run=True) == []
        of_keeper = rf"'keeper@ffff'.*Known are {VERSIONS[1]}, {VERSIONS[0]}"
        for unknown, problem in (("keeper@ffff", of_keeper), ("%", "'%'.*keeper")):
            with pytest.raises(NotFound, match=problem) as refused:
                await client.costs(prompt=unknown)
            assert refused.value.field == "prompt"
