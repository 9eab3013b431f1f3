"""Each example runs as its line in examples/README.md says."""

import asyncio
import re
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.mqtt_broker import mosquitto
from tests.support.running_mesh import MESH, ROOT, RunningMesh, mesh, mesh_up, start

EXAMPLES = ROOT / "examples"
SECRET = "whsec_bWVzaC1tZXNoLW1lc2gtbWVzaC1tZXNoLW1lc2g="


@asynccontextmanager
async def of_file(name: str, folder: Path) -> AsyncIterator[RunningMesh]:
    """The mesh of an example that is one file."""
    async with mesh_up(folder / ".mesh", up=[sys.executable, str(EXAMPLES / name)], cwd=folder) as running:
        yield running


def copied(name: str, folder: Path) -> Path:
    """A copy of an example that is a folder."""
    return Path(shutil.copytree(EXAMPLES / name, folder / name))


async def printed(program: str, *arguments: str, cwd: Path, **environment: str) -> str:
    """The output of a program of an example."""
    process = await start([sys.executable, program, *arguments], environment, cwd, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


@asynccontextmanager
async def serving(program: str, cwd: Path) -> AsyncIterator[tuple[Process, str]]:
    """A server of an example on a free port, which is the last word that it prints first."""
    process = await asyncio.create_subprocess_exec(sys.executable, program, "0", cwd=cwd, stdout=PIPE)
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().split()[-1]
    finally:
        process.kill()
        await process.wait()


async def said(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text()
    named = set(re.findall(r"^\| \[\w+(?:\.py)?\]\((\S+)\)", page, flags=re.M))
    there = {path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")}
    assert named == there


@pytest.mark.parametrize(
    ("decision", "answer"), [("y", "web was restarted"), ("n\nnot today", "web was not restarted")]
)
async def test_approval(tmp_path: Path, decision: str, answer: str) -> None:
    async with of_file("approval.py", tmp_path) as running:
        done = await mesh("chat", "keeper", "--url", running.url, stdin=f"restart web\n{decision}\n")
    assert done.out.startswith(answer) and 'restart(service="web")' in done.err
    assert "not today" in done.out or decision == "y"


async def test_the_file_of_the_getting_started_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/getting-started.md").read_text()
    [program] = [
        code for code in re.findall(r"^```python\n(.*?)^```$", page, flags=re.M | re.S) if "run_mesh" in code
    ]
    (tmp_path / "greeter.py").write_text(program)
    async with mesh_up(tmp_path / ".mesh", up=[sys.executable, "greeter.py"], cwd=tmp_path):
        asked = await start([*MESH, "ask", "greeter", "Ada"], {}, tmp_path, stdout=PIPE)
        assert asked.stdout is not None
        assert await asked.stdout.read() == b"Hello, Ada!\n"


async def test_fan_out(tmp_path: Path) -> None:
    async with of_file("fan_out.py", tmp_path) as running:
        done = await mesh("ask", "editor", "One. Two three. Four.", "--url", running.url)
        tasks = await running.client.tasks(agent_id="counter")
    assert (done.out, len(tasks)) == ("4 words in 3 sentences\n", 3)


async def test_other_framework(tmp_path: Path) -> None:
    async with of_file("other_framework.py", tmp_path) as running:
        task_id = await running.submit("Release 1.4", agent_id="planner", capability="planning")
        await running.until(lambda event: event["event_type"] == "task.waiting")
        await running.kill()
    async with of_file("other_framework.py", tmp_path) as again:
        await again.client.answer((await again.client.inbox())[0], {"approve": True})
        outcome = await again.outcome(task_id)
        events = [event.event_type async for event in again.client.follow(task_id)]
    assert outcome["result"]["text"].startswith("1. Look at 'Release 1.4'.")
    assert events.count("step.finished") == 1


async def test_incident(tmp_path: Path) -> None:
    printed = b""
    async with of_file("incident.py", tmp_path) as running:
        task_id = await running.submit("web", agent_id="on-call", capability="operations")
        await running.until(lambda event: event["event_type"] == "task.waiting")
        await running.kill()
    async with of_file("incident.py", tmp_path) as resumed:
        [question] = await resumed.client.inbox()
        await resumed.client.answer(question, {"approve": True})
        await resumed.until(lambda event: event["payload"].get("name") == "restart")
        await resumed.kill()
        assert resumed.process.stdout is not None
        printed += await resumed.process.stdout.read()
    async with of_file("incident.py", tmp_path) as again:
        outcome = await again.client.outcome(task_id)
        steps = [event async for event in again.client.follow(task_id) if event.event_type == "step.finished"]
        await again.kill()
        assert again.process.stdout is not None
        printed += await again.process.stdout.read()
    seen = "web: 503 since 09:42; errors: 503 since 09:42; access: 503 since 09:42; restarted"
    assert outcome.text == seen
    assert sorted(step.fields["name"] for step in steps) == ["access", "errors", "health", "restart"]
    assert printed.count(b"restarting web") == 1


def test_the_five_steps_take_at_most_24_lines() -> None:
    lines = (EXAMPLES / "incident.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 24


def test_an_agent_of_a_framework_takes_25_lines_and_six_more_than_it_had() -> None:
    for example in (EXAMPLES / "frameworks").glob("*.py"):
        assert len([line for line in example.read_text().splitlines() if line.strip()]) <= 25, example.name
    page = (ROOT / "docs/frameworks.md").read_text()
    [change] = re.findall(r"^```diff\n(.*?)^```$", page, flags=re.M | re.S)
    signs = [line[:1] for line in change.splitlines() if line.strip()]
    assert signs.count("+") - signs.count("-") <= 6


async def test_skills(tmp_path: Path) -> None:
    folder = copied("skills", tmp_path)
    async with mesh_up(folder / ".mesh", cwd=folder) as running:
        done = await mesh("ask", "support", "Are vouchers paid out?", "--url", running.url)
        page = await running.get("/events", event_type="skill.read")
    assert done.out == "Vouchers are never paid out.\n"
    assert [event["payload"]["skill"] for event in page.body["items"]] == ["refunds"]


async def test_schedule(tmp_path: Path) -> None:
    folder = copied("schedule", tmp_path)
    async with mesh_up(folder / ".mesh", cwd=folder) as running:
        assert (await mesh("schedules", "run", "morning", "--url", running.url)).status == 0
        await running.until(lambda event: event["event_type"] == "task.succeeded")
        [task] = await running.client.tasks()
        assert re.fullmatch(r"The disk is \d+% full\.", (await running.client.outcome(task.task_id)).text)


async def test_webhook_comment(tmp_path: Path) -> None:
    folder = copied("webhook_comment", tmp_path)
    settings = folder / "mesh.toml"
    async with serving("forge.py", folder) as (forge, url):
        settings.write_text(settings.read_text().replace("http://127.0.0.1:9009", url))
        secrets = {"FORGE_SECRET": "s3cret-of-the-forge", "FORGE_TOKEN": "t"}
        async with mesh_up(folder / ".mesh", cwd=folder, **secrets) as running:
            sent = await printed("open_issue.py", running.url, cwd=folder, **secrets)
            comment = await said(forge)
            again = await printed("open_issue.py", running.url, cwd=folder, **secrets)
    assert comment == "/repos/acme/shop/issues/7/comments: This is for: identity, platform."
    assert sent == again


async def test_chat_handover(tmp_path: Path) -> None:
    folder = copied("chat_handover", tmp_path)
    settings = folder / "mesh.toml"
    async with serving("chat.py", folder) as (chat, url):
        settings.write_text(settings.read_text().replace("http://127.0.0.1:9010", url))
        secret = {"CHAT_SECRET": SECRET}

        async def say(who: str, text: str) -> str:
            await printed("say.py", who, text, running.url, cwd=folder, **secret)
            return await said(chat)

        async with mesh_up(folder / ".mesh", cwd=folder, **secret) as running:
            assert await say("ada", "When are you open?") == "We are open from 9 to 5."
            assert "A customer says: I want my money back" in await say("ada", "I want my money back")
            assert await say("boss", "You get it back.") == "You get it back."


@pytest.mark.needs("mosquitto")
async def test_mqtt_device(tmp_path: Path) -> None:
    folder = copied("mqtt_device", tmp_path)
    async with (
        mosquitto(tmp_path / "broker") as broker,
        mesh_up(folder / ".mesh", "--mqtt", broker.url, cwd=folder),
    ):
        assert await printed("device.py", "81.5", str(broker.port), cwd=folder) == "stop"
        assert await printed("device.py", "60", str(broker.port), cwd=folder) == "go on"
