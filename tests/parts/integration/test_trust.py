"""Commands that read run no code of a folder; others ask once for each folder."""

import asyncio
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running_mesh import mesh_up, run
from tests.support.sqlite_mesh import ROOT

MESH = [sys.executable, "-m", "meshwright.cli"]
AGENTS = '''
from pathlib import Path

from meshwright import Agent, Capability, Run

Path("ran").touch()


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing", weight=0.5, preferred=True),)
    prompt_text = "---\\ntags: [default]\\n---\\nSay it again.\\n"

    async def run(self, run: Run) -> str:
        return run.task.text
'''
CONFIG = """
model_list:
  - model_name: default
    litellm_params: {model: openai/x, api_key: os.environ/AWS_SECRET_ACCESS_KEY}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from somewhere, and a user who has trusted nothing yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    project = tmp_path / "project"
    (project / "actors").mkdir(parents=True)
    (project / "actors" / "agents.py").write_text(AGENTS)
    return project


def at_a_terminal(answer: str, *arguments: str, cwd: Path, ends: str = "\n") -> tuple[int, str]:
    """Run a command whose stdin and stderr are a terminal: its status, and what the person reads there."""
    person, terminal = pty.openpty()
    with subprocess.Popen(
        [*MESH, *arguments], cwd=cwd, stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL
    ) as process:
        os.close(terminal)
        os.write(person, f"{answer}{ends}".encode())
        said = b""
        try:
            while chunk := os.read(person, 4096):
                said += chunk
        except OSError:  # the other end is closed
            pass
    os.close(person)
    return process.returncode, said.decode()


def test_code_of_a_folder_runs_after_one_yes(folder: Path) -> None:
    status, said = at_a_terminal("n", "ask", "echo", "Hello", cwd=folder)
    assert status == 1 and not (folder / "ran").exists()
    assert "actors/: its Python code (agents.py)" in said and "Do you trust it?" in said
    assert "--trust answers yes beforehand" in said
    status, said = at_a_terminal("y", "ask", "echo", "Hello", cwd=folder)
    assert status == 0 and (folder / "ran").exists(), said
    trusted = folder.parent / "config" / "meshwright" / "trusted"
    assert trusted.read_text() == f"{folder}\n" and stat.S_IMODE(trusted.stat().st_mode) == 0o600
    status, said = at_a_terminal("n", "ask", "echo", "Hello", cwd=folder)
    assert status == 0 and "Do you trust it?" not in said


async def test_a_mesh_that_runs_is_asked_for_its_models_without_a_question(
    folder: Path, tmp_path: Path
) -> None:
    _, said = await asyncio.to_thread(at_a_terminal, "n", "models", cwd=folder)
    assert "Do you trust it?" in said
    async with mesh_up(tmp_path / "data") as mesh:
        status, said = await asyncio.to_thread(at_a_terminal, "n", "models", "--url", mesh.url, cwd=folder)
    assert (status, "Do you trust it?" in said) == (0, False), said
    assert f"asking the mesh at {mesh.url}" in said


def test_the_question_says_where_secrets_would_go(folder: Path) -> None:
    (folder / "mesh.toml").write_text('[models]\nbase_url = "http://models.example:4000"\n')
    (folder / "litellm_config.yaml").write_text(CONFIG)
    status, said = at_a_terminal("n", "up", "--port", "0", cwd=folder)
    assert status == 1
    assert "sends your LITELLM_API_KEY and every prompt to models.example:4000" in said
    assert "may send AWS_SECRET_ACCESS_KEY of your environment" in said
    assert not (folder / "ran").exists() and not (folder / ".mesh").exists()


@pytest.mark.parametrize("how", ["--trust", "MESH_TRUST=1", "no terminal"])
def test_nobody_is_asked_who_has_decided(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "no terminal":
        done = run("ask", "echo", "Hello", cwd=folder)
        assert (done.returncode, done.stdout) == (0, "Hello\n"), done.stderr
        return
    if how == "MESH_TRUST=1":
        monkeypatch.setenv("MESH_TRUST", "1")
    options = ["--trust"] if how == "--trust" else []
    status, said = at_a_terminal("n", "ask", "echo", "Hello", *options, cwd=folder)
    assert status == 0 and "Do you trust it?" not in said


def test_a_new_folder_of_init_needs_no_question_and_another_does(folder: Path) -> None:
    assert at_a_terminal("n", "init", "shop", cwd=folder.parent)[0] == 0
    status, said = at_a_terminal("n", "ask", "assistant", "Hello", cwd=folder.parent / "shop")
    assert status == 0 and "Do you trust it?" not in said
    assert at_a_terminal("n", "init", cwd=folder)[0] == 0
    status, said = at_a_terminal("n", "ask", "assistant", "Hello", cwd=folder)
    assert status == 1 and "Do you trust it?" in said and not (folder / "ran").exists()


def test_init_trusts_its_own_code_beside_files_that_no_mesh_runs(folder: Path) -> None:
    for name, is_trusted in (("clean", True), ("hostile", False)):
        project = folder.parent / name
        (project / ".git").mkdir(parents=True)
        (project / "README.md").write_text("A shop.")
        if not is_trusted:  # a package that code of Meshwright might import
            (project / "litellm.py").write_text("")
        assert run("init", cwd=project).returncode == 0
        status, said = at_a_terminal("n", "ask", "assistant", "Hello", cwd=project)
        assert (status == 0, "Do you trust it?" not in said) == (is_trusted, is_trusted), said


@pytest.mark.parametrize(
    ("typed", "ends", "status"), [("How do I run it?\ny", "\n", 0), ("maybe", "\nn\n", 1), ("", "\x04", 130)]
)
def test_a_wrong_answer_is_named_and_the_question_is_short(
    folder: Path, typed: str, ends: str, status: int
) -> None:
    result, said = at_a_terminal(typed, "ask", "echo", "Hello", cwd=folder, ends=ends)
    assert result == status and said.count("Do you trust it?") == 1, said
    if wrong := typed.partition("\n")[0]:
        assert f"'{wrong}' is neither y nor n. [y/N]" in said
    assert ("--trust answers yes beforehand" in said) == (status != 0)


def test_the_agents_of_the_checkout_need_no_question(folder: Path) -> None:
    data = str(folder.parent / "data")
    status, said = at_a_terminal("n", "ask", "simple-agent", "Hello", "--data", data, cwd=ROOT)
    assert status == 0 and "Do you trust it?" not in said
    (folder / "actors" / "agents.py").unlink()
    (folder / "actors").rmdir()
    status, said = at_a_terminal("n", "ask", "simple-agent", "Hello", cwd=folder)
    assert status == 0 and "Do you trust it?" not in said


READING = ["agents", "prompts check", "tasks", "events", "costs", "budgets", "keys list", "task {}"]


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("with_data", [True, False])
def test_commands_that_read_run_nothing_of_the_folder(folder: Path, command: str, with_data: bool) -> None:
    task_id = "none"
    if with_data:
        task_id = run("submit", "--capability", "echoing", "Hello", cwd=folder).stdout.strip()
        (folder / "ran").unlink()
    before = sorted(path for path in folder.rglob("*") if path.suffix not in (".db-wal", ".db-shm"))
    done = run(*command.format(task_id).split(), cwd=folder)
    refused = command == "task {}" and not with_data
    assert done.returncode == (1 if refused else 0), done.stderr
    assert not (folder / "ran").exists()
    assert sorted(path for path in folder.rglob("*") if path.suffix not in (".db-wal", ".db-shm")) == before
    if command == "prompts check":
        assert re.fullmatch(r"\d+ prompts? checked, no problems\.\n", done.stdout)
    if command == "agents":
        assert "echo" in done.stdout and "echoing (preferred, 0.5)" in done.stdout
    if command == "task {}" and with_data:
        assert task_id in done.stdout and "echo" in done.stdout
    # What waited there still waits, and is done by the next mesh that works.


def test_what_only_running_code_knows_is_said(folder: Path) -> None:
    (folder / "actors" / "made.py").write_text(
        "from meshwright import create_agent\nIt = create_agent('x/y')\n"
    )
    done = run("agents", cwd=folder)
    assert "known only once they run" in done.stderr and "actors/made.py" in done.stderr
