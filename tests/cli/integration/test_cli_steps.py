"""`mesh task ID --steps`: the transcript of a task at a shell, with and without a mesh that runs."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tests.support import running_mesh

run = partial(running_mesh.run, MESH_TRUST="1", COLUMNS="100")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project whose agent has answered once, and the task; no mesh runs."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notes.txt").write_text("The launch code is kept by Ada.\n")
    (folder / "actors").mkdir()
    (folder / "actors/noter.py").write_text(
        "from meshwright import Agent, Capability, Run, tool\n\n\n"
        "class Noter(Agent):\n"
        '    agent_id = "noter"\n'
        '    capabilities = (Capability("noting"),)\n\n'
        "    async def run(self, run: Run) -> str:\n"
        '        await run.step("look", self.look)\n'
        '        return await run.ask("Who keeps the launch code?")\n\n'
        "    async def look(self) -> str:\n"
        '        return "password=hunter2hunter2"\n'
    )
    (folder / "prompts").mkdir()
    (folder / "prompts/noter.prompt").write_text(
        "---\ndescription: d\ntags: [noting]\nvariables: []\n---\nKeep notes.\n"
    )
    done = run("ask", "noter", "Who?", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)["task_id"]


def test_steps_are_a_table_that_fits_the_terminal(asked: tuple[Path, str]) -> None:
    folder, task_id = asked
    done = run("task", task_id, "--steps", cwd=folder)
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["step", "started", "what", "model", "tokens", "cost", "seconds"]
    cells = [row.split()[:3] for row in rows]
    assert [(path, what) for path, _, what in cells] == [("1", "look"), ("2", "context"), ("3", "model")]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", started) for _, started, _ in cells)
    assert "--steps N" in done.stderr


def test_one_step_shows_what_was_told_and_said(asked: tuple[Path, str]) -> None:
    folder, task_id = asked
    shown = run("task", task_id[-6:], "--steps", "3", cwd=folder).stdout
    assert "told 1: system\n  Keep notes." in shown
    assert "told 2: user\n  Who keeps the launch code?" in shown
    assert "\nsaid\n" in shown


def test_secrets_of_a_step_are_redacted(asked: tuple[Path, str]) -> None:
    folder, task_id = asked
    one, everything = (
        run("task", task_id, "--steps", *more, cwd=folder).stdout for more in (["1"], ["--json"])
    )
    assert "hunter2" not in one + everything
    assert "[redacted]" in one


def test_json_is_one_line_for_each_step(asked: tuple[Path, str]) -> None:
    folder, task_id = asked
    steps = [
        json.loads(line) for line in run("task", task_id, "--steps", "--json", cwd=folder).stdout.splitlines()
    ]
    assert [step["kind"] for step in steps] == ["step", "context", "model"]
    assert [message["role"] for message in steps[2]["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "9"], "no step '9'; it has 1 to 3"),
        (["--steps", "--attempt", "2"], "no attempt 2"),
        (["--attempt", "1"], "add --steps"),
        (["--steps", "../x"], "a path such as 3.1"),
    ],
)
def test_what_is_not_there_is_refused_with_what_there_is(
    asked: tuple[Path, str], arguments: list[str], says: str
) -> None:
    folder, task_id = asked
    done = run("task", task_id, *arguments, cwd=folder)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ('{"text": "Done.", "branch": "mesh/7"}', ["result      branch: mesh/7", "Done."]),
        ('{"price": 7}', ['{"price": 7}']),
    ],
)
def test_all_that_an_agent_returned_is_shown(tmp_path: Path, result: str, lines: list[str]) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/seller.py").write_text(
        "from typing import Any\n\nfrom meshwright import Agent, Capability, Run\n\n\n"
        "class Seller(Agent):\n"
        '    agent_id = "seller"\n'
        '    capabilities = (Capability("selling"),)\n\n'
        "    async def run(self, run: Run) -> dict[str, Any]:\n"
        f"        return {result}\n"
    )
    done = run("ask", "seller", "Sell", "--json", cwd=tmp_path)
    shown = run("task", json.loads(done.stdout)["task_id"], cwd=tmp_path).stdout.splitlines()
    assert set(lines) <= set(shown), shown
