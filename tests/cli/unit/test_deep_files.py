"""Files of the user that nest deeply are refused by name; no command ends without saying why."""

import json
from pathlib import Path

import pytest

from tests.support.running_mesh import run

CLERK = """
from meshwright import Agent, Capability

class Clerk(Agent):
    agent_id = "clerk"
    capabilities = (Capability("x"),)
"""
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/clerk.py").write_text(CLERK)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/clerk.prompt").write_text("---\n---\nHello")
    return tmp_path


@pytest.mark.parametrize(
    "command", [("experiments", "create", "deep.json"), ("evaluate", "deep.json", "--agent", "clerk")]
)
def test_a_deep_file_of_json_is_refused_by_name(project: Path, command: tuple[str, ...]) -> None:
    (project / "deep.json").write_text(f'{{"input": {DEEP}}}\n')
    done = run(*command, cwd=project)
    assert done.returncode == 2, done.stderr
    assert "deep.json" in done.stderr and "unexpected" not in done.stderr


def test_a_deep_payload_is_refused(project: Path) -> None:
    done = run("submit", "clerk", "hi", "--payload", f'{{"a": {DEEP[50_000:150_000]}}}', cwd=project)
    assert done.returncode == 2
    assert "not JSON" in done.stderr


@pytest.mark.parametrize("command", [("models", "list"), ("check",)])
def test_a_deep_file_of_models_is_refused_with_its_line(project: Path, command: tuple[str, ...]) -> None:
    (project / "litellm_config.yaml").write_text("# models\nmodel_list: " + "[" * 60 + "]" * 60)
    done = run(*command, cwd=project)
    assert done.returncode == 1
    assert "litellm_config.yaml:2: is not YAML: it is more than 50 levels deep" in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["actors/deep.py", "actors/lib/deep.py"])
def test_deep_code_is_an_agent_that_cannot_be_read(project: Path, place: str) -> None:
    (project / place).parent.mkdir(exist_ok=True)
    if "lib" in place:
        (project / "actors/lib/__init__.py").touch()
    (project / place).write_text(f"x = {'-' * 60_000}1\n")
    done = run("prompts", "check", cwd=project)
    assert done.returncode == 0 and "deep.py" in done.stderr
    assert [agent["agent_id"] for agent in json.loads(run("agents", "--json", cwd=project).stdout)] == [
        "clerk"
    ]
    checked = run("check", cwd=project)
    assert "unexpected" not in checked.stdout + checked.stderr
