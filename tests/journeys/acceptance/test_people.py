"""People answer tasks by command line and HTTP, through a kill -9 and while no mesh runs."""

import asyncio
import json
import os
import pty
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_openai import FakeOpenAI
from tests.support.fake_provider import tool_call
from tests.support.running_mesh import MESH, Done, mesh, mesh_up, start

ACTORS = '''
from pathlib import Path
from pydantic import BaseModel, Field
from meshwright import Agent, Capability, Run, tool


class Rollout(BaseModel):
    percent: int = Field(ge=1, le=100)


class Releaser(Agent):
    agent_id = "releaser"
    capabilities = (Capability("releasing"),)
    prompt_text = "Release."

    @tool(needs_approval=True)
    async def deploy(self, version: str, environment: str = "test") -> str:
        """Deploy a version."""
        with Path("{log}").open("a") as log:
            log.write(f"{{version}}@{{environment}}\\n")
        return f"{{version}} runs in {{environment}}"


class Asker(Agent):
    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        rollout = await run.ask_person("How far shall it go?", shape=Rollout, about={{"changes": 17}})
        return f"{{rollout.percent}} %"
'''


@pytest.fixture
async def provider() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as provider:
        yield provider


@pytest.fixture
def setup(tmp_path: Path, provider: FakeOpenAI) -> dict[str, str]:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/people.py").write_text(ACTORS.format(log=tmp_path / "deployed.txt"))
    return {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "LITELLM_BASE_URL": provider.url}


def is_waiting(event: dict[str, object]) -> bool:
    return event["event_type"] == "task.waiting"


def id_in(listed: Done) -> str:
    """The short id of the one question of an inbox."""
    _, line = listed.out.splitlines()
    return line.split()[0]


def deployed(tmp_path: Path) -> str:
    log = tmp_path / "deployed.txt"
    return log.read_text() if log.exists() else ""


async def test_an_approval_outlives_kill_9_and_is_given_while_no_mesh_runs(
    tmp_path: Path, provider: FakeOpenAI, setup: dict[str, str]
) -> None:
    data, where = tmp_path / "data", ("--data", str(tmp_path / "data"))
    provider.replies += [tool_call("deploy", '{"version": "1.4"}'), {"content": "it is out"}]
    async with mesh_up(data, **setup) as first:
        task_id = await first.submit("Ship 1.4", agent_id="releaser", capability="releasing")
        await first.until(is_waiting)
        shown = await mesh("inbox", *where)
        assert shown.status == 0 and "mesh inbox ID" in shown.err
        assert re.search(r"deploy: 1.4, environment ", shown.out)
        await first.kill()
    short = id_in(await mesh("inbox", *where, **setup))
    page = (await mesh("inbox", short, *where, **setup)).out
    assert re.search(rf"^approve +mesh approve {short} --data", page, flags=re.M), page
    assert re.search(r'^arguments +\{"version": "1.4", "environment": "test"\}$', page, flags=re.M), page
    task = (await mesh("task", task_id, *where, **setup)).out
    assert f"mesh deny {short} --reason" in task and "a person" in task
    done = await mesh("approve", short, "--reason", "tests are green", *where, **setup)
    assert done.status == 0 and "goes on with the next mesh up" in done.out, done.err
    assert (await mesh("inbox", *where, **setup)).err == "nothing waits for a person\n"
    assert deployed(tmp_path) == ""
    async with mesh_up(data, **setup) as second:
        assert (await second.outcome(task_id))["result"]["text"] == "it is out"
        events = [event async for event in second.client.follow(task_id)]
    assert deployed(tmp_path) == "1.4@test\n"
    [given] = [event for event in events if event.event_type == "approval.given"]
    assert (given.payload["decided_by"], given.payload["reason"]) == ("admin", "tests are green")


async def test_a_call_runs_with_arguments_that_were_changed_while_no_mesh_ran(
    tmp_path: Path, provider: FakeOpenAI, setup: dict[str, str]
) -> None:
    data, where = tmp_path / "data", ("--data", str(tmp_path / "data"))
    provider.replies += [tool_call("deploy", '{"version": "1.4"}'), {"content": "it is out"}]
    async with mesh_up(data, **setup) as first:
        task_id = await first.submit("Ship 1.4", agent_id="releaser", capability="releasing")
        await first.until(is_waiting)
        await first.kill()
    short = id_in(await mesh("inbox", *where, **setup))
    asked = '{"version": "1.4", "environment": "test"}'
    assert f"mesh approve {short} --arguments '{asked}'" in (await mesh("inbox", short, *where, **setup)).out
    for given, told in (
        (["{"], "not JSON"),
        (["[]"], "not a JSON object"),
        (['{"version": "1.5"}', "another"], "--arguments are for one call"),
        (['{"version": 7}'], "arguments.version must be text"),
        (['{"version": "1.5", "region": "eu"}'], "arguments.region is not a field of it"),
    ):
        refused = await mesh("approve", short, "--arguments", *given, *where, **setup)
        assert refused.status != 0 and told in refused.err, refused
    done = await mesh("approve", short, "--arguments", '{"version": "1.5"}', *where, **setup)
    assert done.status == 0 and done.out.startswith('approved with {"version": "1.5"} instead: releaser'), (
        done
    )
    async with mesh_up(data, **setup) as second:
        assert (await second.outcome(task_id))["result"]["text"] == "it is out"
        timeline = (await mesh("events", "--task", task_id, "--url", second.url)).out
    assert deployed(tmp_path) == "1.5@test\n"
    assert re.search(r'deploy +by admin +with version="1.5"', timeline), timeline
    assert re.search(r'deploy +version="1.5" +\(changed by admin\)', timeline), timeline
    assert "admin changed the arguments of this call" in str(provider.calls[-1].body)


async def test_a_question_is_answered_with_data_and_refuses_what_does_not_fit(
    tmp_path: Path, setup: dict[str, str]
) -> None:
    async with mesh_up(tmp_path / "data", **setup) as running:
        task_id = await running.submit("Roll out", agent_id="asker", capability="asking")
        await running.until(is_waiting)
        where = ("--url", running.url)
        short = id_in(await mesh("inbox", *where))
        watching = await start([*MESH, "inbox", "--follow", *where], setup, stdout=PIPE)
        assert watching.stdout is not None
        assert b"  open  " in (line := await watching.stdout.readline()) and short.encode() in line
        page = (await mesh("inbox", task_id[-8:], *where)).out
        assert (
            "mesh answer" in page
            and '{"percent": a whole number from 1 to 100}' in page
            and "changes      17" not in page
        )
        for wrong, told in (
            (["answer", short, "half"], "the answer must be an object; answer with"),
            (["answer", short, '{"percent": 101}'], "percent must be at most 100"),
            (["approve", short], "asks a question, not for approval"),
            (["answer", "NOPE", "x"], "No task has a question 'NOPE'"),
            (["deny", short], "Missing option '--reason'"),
        ):
            refused = await mesh(*wrong, *where)
            assert refused.status != 0 and told in refused.err, refused
        done = await mesh("answer", short, '{"percent": 20}', *where)
        assert done.status == 0 and done.out.startswith("answered: How far shall it go?"), done
        assert (await running.outcome(task_id))["result"]["text"] == "20 %"
        assert b"  answered  by anonymous  " in await watching.stdout.readline()
        watching.terminate()
        await watching.wait()
        late = await mesh("answer", short, '{"percent": 30}', *where)
        assert late.status == 1 and "That was answered by anonymous at" in late.err
        for late_for_the_task in (["answer", task_id, "more"], ["approve", task_id]):
            refused = await mesh(*late_for_the_task, *where)
            assert refused.err == (
                f"mesh: Task {task_id} does not wait for a person now; "
                f"mesh inbox {short} shows what it asked before\n"
            )
        cancelled = await mesh("cancel", task_id, *where)
        assert (cancelled.status, cancelled.err) == (0, "it had already succeeded; nothing was cancelled\n")
        assert json.loads((await mesh("inbox", "--ended", "--json", *where)).out)[0]["status"] == "answered"


async def test_mesh_ask_asks_at_its_terminal(tmp_path: Path, setup: dict[str, str]) -> None:
    terminal, end = pty.openpty()
    command = [*MESH, "ask", "asker", "Roll out", "--trust", "--data", str(tmp_path / "data")]
    process = await start(command, setup, stdin=end, stderr=end, stdout=PIPE)
    os.close(end)
    for line in ('{"percent": 101}', '{"percent": 20}'):
        assert "How far shall it go?" in await said(terminal, "answer: ") or line.endswith("20}")
        os.write(terminal, f"{line}\n".encode())
    assert process.stdout is not None
    assert await process.stdout.read() == b"20 %\n"
    os.close(terminal)
    assert await process.wait() == 0


async def said(terminal: int, until: str) -> str:
    shown = ""
    while until not in shown:
        shown += (await asyncio.to_thread(os.read, terminal, 4096)).decode(errors="replace")
    return shown
