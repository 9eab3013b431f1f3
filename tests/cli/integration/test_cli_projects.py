"""Which project and which mesh a command is for, and what it says where that is in doubt."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.integration.test_cli import run

AGENT = """
from meshwright import Agent, Capability


class Lonely(Agent):
    agent_id = "lonely-agent"
    capabilities = (Capability("solitude"),)
    prompt_text = "---\\ntags: [default]\\n---\\nYou are alone."
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one agent, and a folder in it."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/lonely.py").write_text(AGENT)
    (tmp_path / "tests/unit").mkdir(parents=True)
    return tmp_path


def test_a_subfolder_belongs_to_the_project_above_it(project: Path) -> None:
    done = run("agents", cwd=project / "tests/unit")
    assert "lonely-agent" in done.stdout and "simple-agent" not in done.stdout
    assert done.stderr == f"mesh: project {project}\n"
    assert run("agents", cwd=project).stderr == ""


def test_an_agent_that_is_asked_in_a_wrong_folder_is_said_to_be_elsewhere(project: Path) -> None:
    assert "folder of the project" not in run("ask", "gardener", "Hello", cwd=project).stderr
    wrong = project.parent / "wrong"
    wrong.mkdir()
    done = run("ask", "gardener", "Hello", cwd=wrong)
    assert f"none is of {wrong}: go to the folder of the project that has it" in done.stderr


def test_a_folder_and_a_url_together_are_refused(tmp_path: Path) -> None:
    done = run("tasks", "--data", str(tmp_path), MESH_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "unset MESH_URL, or leave out --data" in done.stderr
    done = run("cancel", "x", "--url", "http://127.0.0.1:1", "--data", str(tmp_path))
    assert done.returncode == 2 and "--data" in done.stderr and "--url" in done.stderr


@pytest.mark.parametrize("command", ["ask", "submit"])
def test_a_question_without_quotes_is_told_to_have_them(command: str) -> None:
    done = run(command, "simple-agent", "What", "is", "a", "turn")
    assert done.returncode == 2
    assert f"put the text in quotes, such as: mesh {command} " in done.stderr


def test_a_misspelt_variable_is_a_warning(tmp_path: Path) -> None:
    done = run("tasks", cwd=tmp_path, MESH_DURABILTY="full", MESH_QUITE_ANOTHER="1")
    assert done.returncode == 0
    assert "mesh: warning: MESH_DURABILTY is no setting" in done.stderr
    assert "did you mean MESH_DURABILITY?" in done.stderr
    assert "MESH_QUITE_ANOTHER" not in done.stderr


def test_a_variable_with_one_underscore_for_two_is_a_warning(tmp_path: Path) -> None:
    done = run("tasks", cwd=tmp_path, MESH_MQTT_URL="mqtt://127.0.0.1:1", MESH_HTTP_PORT="3")
    assert "MESH_MQTT_URL is no setting and has no effect: did you mean MESH_MQTT__URL?" in done.stderr
    assert "MESH_HTTP_PORT is no setting and has no effect: did you mean MESH_HTTP__PORT?" in done.stderr


def test_git_does_not_see_the_data_folder(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert run("ask", "simple-agent", "Hello", cwd=tmp_path).returncode == 0
    assert (tmp_path / ".mesh/mesh.db").is_file()
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert status.stdout == ""


def test_a_missing_prompt_is_looked_for_in_the_project_alone(project: Path) -> None:
    (project / "actors/lonely.py").write_text(AGENT[: AGENT.index("    prompt_text")])
    path = str(project / "prompts/lonely-agent.prompt")
    asked = run("ask", "lonely-agent", "Hello", cwd=project)
    assert f"{path}: there is no such file; a built-in prompt takes its place; write it" in asked.stderr
    for command in (["prompts", "check"], ["doctor"]):
        done = run(*command, cwd=project, MESH_TRUST="1")
        assert done.returncode == 1 and f"{path}: lonely-agent has no prompt" in done.stdout, command
    (project / "actors/lonely.py").write_text(AGENT)
    for command in (["prompts", "check"], ["doctor"]):
        done = run(*command, cwd=project, MESH_TRUST="1")
        assert (done.returncode, "site-packages" in done.stdout) == (0, False), (command, done.stdout)


@pytest.mark.parametrize(("body", "needed"), [('"pong"', False), ('await run.ask("How far?")', True)])
def test_an_agent_that_asks_no_model_needs_no_prompt(project: Path, body: str, needed: bool) -> None:
    (project / "actors/ping.py").write_text(
        "from meshwright import Agent, Capability, Run\n\n\nclass PingAgent(Agent):\n"
        '    agent_id = "ping-agent"\n    capabilities = (Capability("ping"),)\n\n'
        f"    async def run(self, run: Run) -> str:\n        return {body}\n"
    )
    for command in (["check", "prompts"], ["check"]):
        done = run(*command, cwd=project, MESH_TRUST="1")
        assert (done.returncode == 1) == needed == ("ping-agent has no prompt" in done.stdout), done.stdout


def test_agents_of_meshwright_are_there_beside_own_ones_where_they_are_wanted(project: Path) -> None:
    asked = run("ask", "digest-agent", "What happened?", cwd=project)
    assert asked.returncode == 1
    assert 'include = ["digest-agent"] below [agents] of mesh.toml adds it' in asked.stderr
    (project / "mesh.toml").write_text('[agents]\ninclude = ["digest-agent"]\n')
    assert "digest-agent" in run("agents", cwd=project).stdout
    done = run("ask", "-q", "digest-agent", "What needs attention?", cwd=project, MESH_TRUST="1")
    assert done.returncode == 0 and done.stdout.startswith("Digest from ")
    assert "a built-in prompt" not in done.stderr
    (project / "mesh.toml").write_text('[agents]\ninclude = ["digst-agent"]\n')
    wrong = run("ask", "lonely-agent", "Hello", cwd=project, MESH_TRUST="1")
    assert wrong.returncode == 1 and "did you mean 'digest-agent'?" in wrong.stderr


def test_a_skill_that_cannot_be_used_is_named_before_an_answer(project: Path) -> None:
    agent = project / "actors/lonely.py"
    agent.write_text(AGENT.replace("    prompt_text", '    skills = ("forms",)\n    prompt_text'))
    (project / "skills/forms").mkdir(parents=True)
    (project / "skills/forms/SKILL.md").write_text("---\nname: forms\n---\nFill them.\n")
    done = run("ask", "lonely-agent", "Hello", cwd=project)
    assert done.returncode == 0
    assert "SKILL.md:1: field 'description' is missing" in done.stderr
    assert "SKILL.md" not in run("tasks", cwd=project).stderr
