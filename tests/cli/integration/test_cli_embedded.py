"""Commands that run a mesh within themselves: how they end, and what other shells are told meanwhile."""

from __future__ import annotations

import asyncio
import os
import pty
from asyncio.subprocess import PIPE
from contextlib import closing
from pathlib import Path

from tests.cli.integration.test_cli_live import shown
from tests.support.fake_openai import FakeOpenAI
from tests.support.running_mesh import MESH, run

SETTINGS = """[ledger.default_price]
input = 3
output = 15
"""
ACTORS = """
import asyncio

from meshwright import Agent, Capability, Run


class Waiter(Agent):
    agent_id = "waiter"
    capabilities = (Capability("waiting"),)

    async def run(self, run: Run) -> str:
        await run.progress("It waits.")
        await asyncio.Event().wait()
        return "never"


class Talker(Agent):
    agent_id = "talker"
    capabilities = (Capability("talking"),)
    prompt_text = "Talk."
"""


def project(folder: Path) -> Path:
    (folder / "actors").mkdir()
    (folder / "actors/agents.py").write_text(ACTORS)
    (folder / "mesh.toml").write_text(SETTINGS)
    return folder


async def test_another_shell_is_told_at_once_of_the_ask_that_has_the_folder(tmp_path: Path) -> None:
    folder = project(tmp_path)
    process = await asyncio.create_subprocess_exec(
        *MESH,
        "ask",
        "waiter",
        "Wait.",
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(120):
        while b"It waits." not in await process.stderr.readline():
            pass
    done = await asyncio.to_thread(run, "inbox", cwd=folder)
    process.kill()
    await process.communicate()
    assert done.returncode == 1 and "waiting for it" not in done.stderr
    assert f"in use by process {process.pid}: `mesh ask`" in done.stderr, done.stderr
    assert "answer its questions at its terminal" in done.stderr


async def test_a_question_about_money_ends_a_command_without_a_terminal(tmp_path: Path) -> None:
    folder = project(tmp_path)
    async with FakeOpenAI() as provider:
        limits = ("--budget", "0.0001", "--on-empty", "ask")
        done = await asyncio.to_thread(
            run, "ask", "talker", "Hi.", *limits, cwd=folder, LITELLM_BASE_URL=provider.url
        )
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line.strip()}
    assert done.returncode == 1, done.stderr
    task_id = lines["raise"].split()[4]
    assert lines["raise"] == f"raise       mesh budgets raise {task_id} USD"
    assert lines["deny"].startswith("deny        mesh deny ")
    assert lines["mesh:"].startswith(f"mesh: task {task_id} waits for a person")
    last = run("events", "--all", "--limit", "1", cwd=folder).stdout
    assert "audit.head" in last or "trace.spans" in last
    assert len(run("events", "--limit", "1", cwd=folder).stdout.splitlines()) == 1


async def test_a_terminal_is_asked_how_many_dollars_to_add(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "mesh.toml").write_text(
        f'{SETTINGS}[[ledger.budgets]]\nname = "day"\nlimit_usd = "0.0001"\non_empty = "ask"\n'
    )
    async with FakeOpenAI() as provider:
        provider.replies += [{"content": "Good morning."}]
        here, there = pty.openpty()
        environment = {**os.environ, "LITELLM_BASE_URL": provider.url, "TTY_INTERACTIVE": "0"}
        with closing(os.fdopen(here, "r+b", buffering=0)) as terminal:
            process = await asyncio.create_subprocess_exec(
                *MESH,
                "ask",
                "talker",
                "Hi.",
                "--trust",
                cwd=folder,
                env=environment,
                stdin=there,
                stdout=PIPE,
                stderr=there,
            )
            os.close(there)
            await shown(terminal.fileno(), "add how many dollars?")
            terminal.write(b"some\n0.5\n")
            out, _ = await process.communicate()
    assert (process.returncode, out.decode().strip()) == (0, "Good morning.")
