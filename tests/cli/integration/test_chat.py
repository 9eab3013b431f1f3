"""`mesh chat`: a conversation at a terminal and through a pipe."""

import json
import os
import pty
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshwright.core.display import printable
from tests.cli.integration.test_cli_live import shown
from tests.support.fake_openai import FakeOpenAI, tool_call
from tests.support.mesh_forks import Forked
from tests.support.running_mesh import MESH, mesh, mesh_up, start

ACTORS = '''
from pydantic import BaseModel, Field
from meshwright import Agent, Capability, Run, tool


class Rollout(BaseModel):
    percent: int = Field(ge=1, le=100)


class Releaser(Agent):
    agent_id = "releaser"
    capabilities = (Capability("releasing"),)
    prompt_text = "Release."

    @tool(needs_approval=True)
    async def deploy(self, version: str) -> str:
        """Deploy a version."""
        return f"{version} runs"


class Asker(Agent):
    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        rollout = await run.ask_person("How far shall it go?", shape=Rollout)
        return f"{rollout.percent} %"


class Breaker(Agent):
    agent_id = "breaker"
    capabilities = (Capability("breaking"),)

    async def run(self, run: Run) -> str:
        raise KeyError("Sunday")
'''


@pytest.fixture
async def provider() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as provider:
        yield provider


@pytest.fixture
def setup(tmp_path: Path, provider: FakeOpenAI) -> dict[str, str]:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/people.py").write_text(ACTORS)
    return {
        "MESH_AGENTS__DIR": str(tmp_path / "actors"),
        "MESH_DATA_DIR": str(tmp_path / "data"),
        "LITELLM_BASE_URL": provider.url,
    }


class Talk:
    """`mesh chat` at a terminal."""

    def __init__(self, terminal: int, process: Process | Forked) -> None:
        self._terminal = terminal
        self.process = process

    async def until(self, *words: str) -> str:
        """The text that it shows, up to where it has all of these."""
        return await shown(self._terminal, *words)

    def type(self, line: str) -> None:
        os.write(self._terminal, f"{line}\n".encode())

    def end(self) -> None:
        """Press Ctrl-D."""
        os.write(self._terminal, b"\x04")


@asynccontextmanager
async def talking(agent: str, setup: dict[str, str], *where: str) -> AsyncIterator[Talk]:
    ours, theirs = pty.openpty()
    command = [*MESH, "chat", agent, "--trust", *where]
    environment = {**setup, "NO_COLOR": "1", "COLUMNS": "120"}
    process = await start(command, environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        yield Talk(ours, process)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)


async def test_a_conversation_asks_for_approval_and_knows_what_was_said(
    provider: FakeOpenAI, setup: dict[str, str]
) -> None:
    provider.replies += [
        tool_call("deploy", '{"version": "1.4"}'),
        {"content": "Not today, then: there is a freeze."},
    ]
    async with talking("releaser", setup) as talk:
        await talk.until("/quit ends", "> ")
        talk.type("Ship 1.4")
        assert 'deploy(version="1.4")' in await talk.until("approve? [y/n] ")
        talk.type("n")
        await talk.until("why not? ")
        talk.type("a freeze")
        answer = printable(await talk.until("there is a freeze.", "> "))
        assert "tool        deploy" in answer and answer.count("Not today, then") == 1
        assert "memory  " not in answer and "dispatched" not in answer
        talk.type("What did I say?")
        await talk.until("is no model: What did I say?", "> ")
        assert "Ship 1.4" in json.dumps(provider.calls[-1].body["messages"])
        talk.type("/new")
        await talk.until("thread ", "> ")
        talk.type("And now?")
        await talk.until("is no model: And now?", "> ")
        assert "Ship 1.4" not in json.dumps(provider.calls[-1].body["messages"])
        talk.end()
        await talk.until("to go on: mesh chat releaser --thread ")


async def test_a_person_is_asked_once_and_told_what_to_type(
    provider: FakeOpenAI, setup: dict[str, str]
) -> None:
    provider.replies += [tool_call("deploy", '{"version": "1.4"}'), {"content": "It runs."}]
    async with talking("releaser", setup) as talk:
        begin = await talk.until("/quit ends", "> ")
        assert "this command runs one until it ends" in begin
        talk.type("Ship 1.4")
        asked = printable(await talk.until("approve? [y/n] "))
        assert asked.count("releaser wants to run deploy") == 1
        talk.type("maybe")
        await talk.until("Type y for yes, or n for no", "approve? [y/n] ")
        talk.type("y")
        await talk.until("It runs.", "> ")
        talk.type("exit")
        await talk.until("to go on: mesh chat releaser --thread ")
    [task] = json.loads((await mesh("tasks", "--json", **setup)).out)
    assert task["status"] == "succeeded"


async def test_ctrl_c_cancels_the_answer_and_the_conversation_goes_on(
    provider: FakeOpenAI, setup: dict[str, str]
) -> None:
    provider.seconds = 60.0
    async with talking("releaser", setup) as talk:
        await talk.until("/quit ends", "> ")
        talk.type("Hello")
        await provider.arrived.wait()
        talk.process.send_signal(signal.SIGINT)
        await talk.until("the task is cancelled", "> ")
        await provider.abandoned.wait()
        provider.seconds = 0.0
        talk.process.send_signal(signal.SIGINT)
        await talk.until("/quit or Ctrl-D ends", "> ")
        talk.type("Hello again")
        await talk.until("is no model: Hello again", "> ")
        talk.type("/nothing")
        await talk.until("/file PATH sends", "> ")
        talk.type("/quit")
        await talk.until("to go on: ")
    listed = json.loads((await mesh("tasks", "--json", **setup)).out)
    assert [task["status"] for task in listed] == ["succeeded", "cancelled"]
    assert len({task["thread_id"] for task in listed}) == 1


async def test_a_mesh_that_has_gone_is_named_and_ctrl_c_gives_it_up(
    tmp_path: Path, setup: dict[str, str]
) -> None:
    async with mesh_up(tmp_path / "data", **setup) as running, talking("releaser", setup) as talk:
        await talk.until("/quit ends", "> ")
        await running.kill()
        talk.type("Hello")
        await talk.until(f"{running.url} does not answer yet; Ctrl-C gives up")
        talk.process.send_signal(signal.SIGINT)
        await talk.until(f"{running.url} does not answer; it may have the task", "> ")
        talk.end()


async def test_lines_of_a_pipe_are_requests_and_their_answers_lines(
    tmp_path: Path, provider: FakeOpenAI, setup: dict[str, str]
) -> None:
    (tmp_path / "my shot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    setup["HOME"] = str(tmp_path)
    async with mesh_up(tmp_path / "data", **setup) as running:
        command = [*MESH, "chat", "releaser", "--thread", "t-7", "--url", running.url]
        process = await start(command, setup, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert isinstance(process, Process) and process.stdin is not None
        assert process.stdout is not None and process.stderr is not None
        process.stdin.write(b"Look\n")
        assert await process.stdout.readline() == b"fake-openai answers, and is no model: Look\n"
        process.stdin.write(b'/file ~/none.png\n/file "~/my shot.png"\n\nAt this\n')
        assert await process.stdout.readline() == b"fake-openai answers, and is no model: At this \n"
        process.stdin.write(b"/quit\n")
        assert await process.wait() == 0
        said = (await process.stderr.read()).decode()
        assert "cannot read ~/none.png" in said and 'my shot.png" goes with the next request' in said
        assert "iVBORw0KGgo" in json.dumps(provider.calls[-1].body["messages"])
        assert [task.thread_id for task in await running.client.tasks()] == ["t-7", "t-7"]


async def test_a_question_is_answered_by_the_next_line_that_fits(setup: dict[str, str]) -> None:
    done = await mesh("chat", "asker", stdin='Roll out\n{"percent": 101}\n{"percent": 20}\n', **setup)
    assert (done.status, done.out) == (0, "20 %\n")
    assert "How far shall it go?" in done.err and "percent must be at most 100" in done.err


async def test_lines_that_end_at_a_question_leave_it_to_others(tmp_path: Path, setup: dict[str, str]) -> None:
    alone = await mesh("chat", "asker", stdin="Roll out\n", **setup)
    assert (alone.status, alone.out) == (0, "") and "mesh answer " in alone.err
    assert "it goes on once that is answered, with the next mesh up\n" in alone.err
    async with mesh_up(tmp_path / "data", **setup) as running:
        beside = ("--payload", '{"site": "west"}', "--budget", "0.50")
        done = await mesh("chat", "asker", *beside, "--url", running.url, stdin="Roll out", **setup)
        assert done.status == 0 and "it goes on once that is answered\n" in done.err
        assert re.search(rf"mesh answer \w+ .* --url {running.url}", done.err)
        tasks = await running.client.tasks()
        assert [task.status for task in tasks] == ["waiting", "waiting"]
        asked = await running.client.task(tasks[0].task_id)
        assert asked.payload == {"site": "west", "text": "Roll out"}
    refused = await mesh("chat", "asker", "--budget", "0", stdin="Roll out", **setup)
    assert refused.status == 2 and "'0' is no amount of dollars" in refused.err


async def test_an_agent_that_is_not_there_is_refused_at_once(setup: dict[str, str]) -> None:
    done = await mesh("chat", "releasr", stdin="Hello\n", **setup)
    assert (done.status, done.out) == (1, "") and "did you mean: mesh chat releaser" in done.err


async def test_a_failed_request_says_its_error_once_and_how_to_retry(setup: dict[str, str]) -> None:
    done = await mesh("chat", "breaker", stdin="Open\n", **setup)
    assert done.err.count("Sunday") == 1, done.err
    assert re.search(r"mesh: the task failed: KeyError: 'Sunday' .*\nagain: mesh retry \w{26}\n", done.err)
