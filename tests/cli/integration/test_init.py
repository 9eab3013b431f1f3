"""`mesh init` makes what is missing, and overwrites nothing."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running_mesh import run

SKILL = ".agents/skills/write-a-meshwright-agent/SKILL.md"
MADE = {
    "actors/assistant.py",
    "prompts/assistant.prompt",
    "tests/test_assistant.py",
    "mesh.toml",
    ".gitignore",
    "Dockerfile",
    "README.md",
    "AGENTS.md",
    SKILL,
}


@pytest.fixture(autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and ".mesh" not in path.parts
    }


def test_a_new_folder_gets_every_file(tmp_path: Path) -> None:
    done = run("init", "shop", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "shop").keys() == MADE
    assert {line.removeprefix("made shop/") for line in done.stdout.splitlines()} == MADE
    assert 'next: cd shop && mesh ask assistant "' in done.stderr


def test_the_next_command_names_a_folder_as_a_shell_takes_it(tmp_path: Path) -> None:
    done = run("init", "my shop", cwd=tmp_path)
    assert "next: cd 'my shop' && mesh ask assistant " in done.stderr


def test_files_that_are_there_stay_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Mine.")
    (tmp_path / ".gitignore").symlink_to(tmp_path / "nowhere")
    done = run("init", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines()[:2] == ["left .gitignore as it is", "left README.md as it is"]
    assert (tmp_path / "README.md").read_text() == "Mine." and not (tmp_path / "nowhere").exists()


def test_an_agent_that_is_there_is_refused_and_another_is_added(tmp_path: Path) -> None:
    assert run("init", cwd=tmp_path).returncode == 0
    before = files_of(tmp_path)
    again = run("init", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "actors/assistant.py is there already" in again.stderr and "--agent NAME" in again.stderr
    assert files_of(tmp_path) == before
    assert run("init", "--agent", "agent", cwd=tmp_path).returncode == 0
    assert "class AgentAgent(Agent)" in files_of(tmp_path)["actors/agent.py"]
    listed = run("agents", cwd=tmp_path).stdout
    assert "assistant" in listed and "\nagent " in listed


def test_a_folder_within_a_project_is_made_where_it_was_named(tmp_path: Path) -> None:
    assert run("init", cwd=tmp_path).returncode == 0
    (tmp_path / "below").mkdir()
    assert run("init", "inner", cwd=tmp_path / "below").returncode == 0
    assert (tmp_path / "below/inner/mesh.toml").is_file()


@pytest.mark.parametrize("name", ["Shop", "a b", "1st", "../up", "x" * 49, "-a", ""])
def test_a_name_that_no_module_can_have_is_refused(tmp_path: Path, name: str) -> None:
    done = run("init", f"--agent={name}", cwd=tmp_path)
    assert done.returncode == 2 and "is no name of an agent" in done.stderr
    assert files_of(tmp_path) == {}


def test_the_budget_that_it_suggests_passes_the_test_that_it_writes(tmp_path: Path) -> None:
    assert run("init", cwd=tmp_path).returncode == 0
    settings = (tmp_path / "mesh.toml").read_text()
    before, marked, budget = settings.partition("# [[ledger.budgets]]")
    (tmp_path / "mesh.toml").write_text(before + (marked + budget).replace("# ", ""))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "day" in run("budgets", cwd=tmp_path).stdout


def test_what_the_skill_teaches_runs_as_it_is_written(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    assert run("init", str(shop), cwd=tmp_path).returncode == 0
    skill = (shop / SKILL).read_text()
    checked = run("skills", "check", cwd=shop)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for path, text in re.findall(r"^`([\w/.-]+)`:\n\n```\w*\n(.*?)^```$", skill, flags=re.M | re.S):
        (shop / path).write_text(text)
    [commands] = re.findall(r"^## Run it\n\n```\n(.*?)^```$", skill, flags=re.M | re.S)
    shown = re.findall(r"`((?:mesh|pytest) [^`]+)`", (shop / "AGENTS.md").read_text())
    for command in (*commands.splitlines(), *shown):
        program, *words = shlex.split(command)
        if program == "pytest":
            command_line = [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider"]
            tried = subprocess.run(command_line, cwd=shop, capture_output=True, text=True, check=False)
            assert "2 passed" in tried.stdout
        else:
            tried = run(*words, cwd=shop)
        assert tried.returncode == 0, (command, tried.stdout, tried.stderr)
