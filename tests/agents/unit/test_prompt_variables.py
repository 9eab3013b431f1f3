"""Variables of prompt files: values of the agent's class and of the payload, and errors by file and line."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability
from meshwright.core.errors import ConfigError, PromptError
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.running_mesh import run

HEAD = "---\ntags: [a]\nvariables: [agent_name, environment]\ninputs: [customer]\n---\n"
BODY = "You are {{agent_name}} in {{environment}}.\nServe {{customer}}."
CODE = """\
import os

from meshwright import Agent, Capability


class Clerk(Agent):
    '''Serves customers.'''

    agent_id = "clerk"
    capabilities = (Capability("serving"),)
    variables = {"environment": os.environ.get("PLACE", "staging")}
"""


class Clerk(Agent):
    """Serves customers."""

    agent_id = "clerk"
    capabilities = (Capability("serving"),)
    variables: ClassVar = {"environment": "the {{customer}} cluster"}


async def test_a_file_is_filled_from_class_and_payload(tmp_path: Path) -> None:
    (tmp_path / "clerk.prompt").write_text(HEAD + BODY)
    payload = {"customer": "{{agent_name}}", "environment": "production", "text": "Hello"}
    async with mesh_for(Clerk, model=ScriptedModel("Served."), prompts={"dir": tmp_path}) as mesh:
        assert (await mesh.ask("clerk", payload=payload)).success
        [request] = mesh.model.requests  # type: ignore[attr-defined]
    expected = "You are clerk in the {{customer}} cluster.\nServe {{agent_name}}."
    assert request.messages[0].content == expected


async def test_a_task_without_an_input_names_file_line_and_values(tmp_path: Path) -> None:
    file = tmp_path / "clerk.prompt"
    file.write_text(HEAD + BODY)
    async with mesh_for(Clerk, model=ScriptedModel("Served."), prompts={"dir": tmp_path}) as mesh:
        outcome = await mesh.ask("clerk", payload={"text": "Hello", "customer": None})
        assert not mesh.model.requests  # type: ignore[attr-defined]
    assert outcome.error is not None
    assert f"{file}:7: prompt clerk needs a value for customer" in outcome.error.message
    assert "there are values for text, environment, agent_name, task" in outcome.error.message


@pytest.mark.parametrize(
    ("head", "line", "problem"),
    [
        ("variables: [enviroment]", 3, "'enviroment'. did you mean 'environment'? There are agent_name"),
        ("inputs: [environment]", 3, "input 'environment' is filled in by the mesh or the agent. list it"),
        ("variables: [environment]\ninputs: [customer]", 4, "input 'customer' is declared and not used"),
        ("variables: []", 5, "variable 'environment' is not declared. add it to the list: variables: [env"),
    ],
)
def test_the_check_of_a_project_knows_the_variables_of_classes(
    tmp_path: Path, head: str, line: int, problem: str
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/clerk.py").write_text(CODE)
    (tmp_path / "prompts").mkdir()
    file = tmp_path / "prompts/clerk.prompt"
    file.write_text(HEAD + BODY)
    done = run("prompts", "check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    name = "enviroment" if "enviroment" in head else "environment"
    file.write_text(f"---\ntags: [a]\n{head}\n---\nYou work in {{{{{name}}}}}.")
    done = run("prompts", "check", cwd=tmp_path)
    assert done.returncode == 1
    assert f"prompts/clerk.prompt:{line}: " in done.stdout and problem in done.stdout


async def test_the_mesh_refuses_a_file_whose_variable_no_class_has(tmp_path: Path) -> None:
    (tmp_path / "clerk.prompt").write_text("---\ntags: [a]\nvariables: [region]\n---\nServe {{region}}.")
    async with mesh_for(Clerk, model=ScriptedModel("Served."), prompts={"dir": tmp_path}) as mesh:
        with pytest.raises(PromptError, match=r"clerk\.prompt:3: nothing fills in") as refused:
            await mesh.ask("clerk", "Hello")
    assert "agent_name, task, environment" in str(refused.value)


@pytest.mark.parametrize("variables", [{"Place": "x"}, {"task": "x"}, {"place": 3}, ["place"]])
def test_a_class_with_wrong_variables_is_refused(variables: Any) -> None:
    fields = {"agent_id": "odd", "capabilities": (Capability("being-odd"),), "variables": variables}
    with pytest.raises(ConfigError, match="agent odd has "):
        type("Odd", (Agent,), fields)


BELOW = """
from meshwright import Agent, Capability

class Base(Agent):
    agent_id = "base"
    capabilities = (Capability("x"),)

class Big(Base):
    agent_id = "big"

class Shared(Agent, abstract=True):
    prompt = "shared"
    capabilities = (Capability("y"),)

class Small(Shared):
    agent_id = "small"
"""


def test_an_agent_below_another_needs_a_prompt_of_its_own_unless_a_base_names_one(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/agents.py").write_text(BELOW)
    (tmp_path / "prompts").mkdir()
    for name in ("base", "shared"):
        (tmp_path / f"prompts/{name}.prompt").write_text("---\n---\nHello {question}")
    for command in ("prompts", "project"):
        done = run("check", command, cwd=tmp_path)
        assert done.returncode == 1
        assert "prompts/big.prompt: big has no prompt" in done.stdout
        assert "small has" not in done.stdout
    (tmp_path / "prompts/big.prompt").write_text("---\n---\nBig")
    done = run("prompts", "check", cwd=tmp_path)
    assert done.returncode == 0
    note = "note: {}/prompts/base.prompt:3: {{question}} is sent as text."
    assert done.stdout.startswith(note.format(tmp_path))
    assert done.stdout.endswith("3 prompts checked, no problems.\n")
    [of_base, of_shared] = json.loads(run("prompts", "check", "--json", cwd=tmp_path).stdout)
    assert (of_base["kind"], of_base["line"], of_shared["kind"]) == ("note", 3, "note")
