"""An accepted task survives: kill -9 in the middle, a stop in the middle, and a start on the same data."""

import asyncio
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright.client import ENDINGS
from tests.support.fake_openai import FakeOpenAI
from tests.support.running_mesh import RunningMesh, all_of, mesh, mesh_up

TASKS = 30
IN_FLIGHT = 8  # two agents with four slots
CAPABILITIES = ["general-query", "deep-research"]


async def publish(running: RunningMesh) -> dict[str, str]:
    """Submit thirty tasks, and return the id of each by its key."""
    keys = [f"task-{number}" for number in range(TASKS)]
    ids = await all_of([submit(running, key) for key in keys])
    return dict(zip(keys, ids, strict=True))


async def submit(running: RunningMesh, key: str) -> str:
    return await running.submit(f"question {key}.", key=key, capability=CAPABILITIES[int(key[5:]) % 2])


async def ends_of(running: RunningMesh, task_id: str) -> list[dict[str, Any]]:
    events = (await running.get("/events", task_id=task_id, limit=1000)).body["items"]
    return [event for event in events if event["event_type"] in ENDINGS]


def some_have_ended(count: int) -> Any:
    ended = Counter[str]()

    def enough(event: dict[str, Any]) -> bool:
        ended[event["task_id"]] += event["event_type"] in ENDINGS
        return ended.total() >= count

    return enough


def asked(provider: FakeOpenAI, key: str) -> int:
    """How often the provider was asked about a task."""
    return sum(f"question {key}." in json.dumps(call.body["messages"]) for call in provider.calls)


class AnswersSome(FakeOpenAI):
    """Answers so many calls at once; who calls later waits. `full` says that eight wait."""

    answers = 0
    full: asyncio.Event

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.answers -= 1
        self.seconds = 60.0 if self.answers < 0 else 0.0
        if self.answers == -IN_FLIGHT:
            self.full.set()
        return await super().complete(request)


async def test_thirty_tasks_survive_kill_9_with_one_outcome_each(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with AnswersSome() as provider:
        provider.answers, provider.full = 8, asyncio.Event()
        environment = {"LITELLM_BASE_URL": provider.url, "MESH_AGENTS__MAX_CONCURRENCY": "4"}
        async with mesh_up(data, **environment) as first:
            ids = await publish(first)
            await provider.full.wait()
            await first.until(some_have_ended(8))
            await first.kill()
        before = {key: asked(provider, key) for key in ids}
        provider.answers = 1000
        async with mesh_up(data, **environment) as second:
            outcomes = await all_of([second.outcome(task_id) for task_id in ids.values()])
            assert [outcome["error"] for outcome in outcomes] == [None] * TASKS
            ends = await all_of([ends_of(second, task_id) for task_id in ids.values()])
            assert [len(end) for end in ends] == [1] * TASKS
            assert await all_of([submit(second, key) for key in ids]) == list(ids.values())
    again = Counter(asked(provider, key) for key in ids)
    assert sum(before.values()) == 8 + IN_FLIGHT
    assert again == {1: TASKS - IN_FLIGHT, 2: IN_FLIGHT}, "another call was repeated than those in flight"


ASKING = """
import asyncio
from pathlib import Path
from meshwright import Agent, Capability, Run


class Deployer(Agent):
    \"\"\"Deploys, which must not happen twice.\"\"\"

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)

    async def run(self, run: Run) -> str:
        return f"deployed: {await run.step('deploy', self.deploy, repeatable=False)}"

    async def deploy(self) -> str:
        print("deploying", flush=True)
        await asyncio.Event().wait()
        return ""
"""


async def test_what_may_have_happened_before_the_kill_is_asked_of_a_person(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/deployer.py").write_text(ASKING)
    actors, where = {"MESH_AGENTS__DIR": str(tmp_path / "actors")}, ("--data", str(tmp_path / "data"))
    async with mesh_up(tmp_path / "data", **actors) as first:
        task_id = await first.submit("Deploy", agent_id="deployer", capability="deploying")
        assert first.process.stdout is not None
        assert await first.process.stdout.readline() == b"deploying\n"
        await first.kill()
    async with mesh_up(tmp_path / "data", **actors) as second:
        await second.until(lambda event: event["event_type"] == "task.waiting")
        page = (await mesh("task", task_id, *where)).out
        [command] = re.findall(r"^deny +mesh (deny .*)$", page, flags=re.M)
        assert re.search(
            r"^asked +The mesh stopped while deploy was running\. .* May it run again\?", page, re.M
        )
        wrong = await mesh("deny", "another", "--reason", "no", *where)
        assert (wrong.status, wrong.err.count("\n")) == (1, 1) and "No task has a question" in wrong.err
        done = await mesh(*shlex.split(command.replace("...", "version 7 is out")))
        assert done.status == 0 and f"task {task_id} goes on" in done.out, done.err
        assert (await second.outcome(task_id))["result"]["text"] == "deployed: version 7 is out"
        again = await second.post(f"/tasks/{task_id}/answer", {"key": "x", "value": 1})
        assert (again.status, again.body["field"]) == (404, "key")


CHECKED = """
import asyncio
from pathlib import Path
from meshwright import Agent, Capability, CheckResult, Run

HERE = Path(__file__).parent


class Payer(Agent):
    \"\"\"Pays, and can look what it has paid.\"\"\"

    agent_id = "payer"
    capabilities = (Capability("paying"),)

    async def run(self, run: Run) -> str:
        name = run.task.text

        async def pay() -> str:
            with (HERE / "ledger.txt").open("a") as ledger:
                ledger.write(f"{name} {run.step_id}\\n")
            while not (HERE / "go").exists():
                await asyncio.sleep(0.05)
            return "paid again"

        async def was_paid(step_id: str) -> CheckResult:
            seen = f"the ledger has {name} {step_id}" if step_id in (HERE / "ledger.txt").read_text() else ""
            if name == "happened":
                return CheckResult.happened("receipt 8", seen)
            return CheckResult.did_not_happen(seen) if name == "refused" else CheckResult.unknown(seen)

        return await run.step("pay", pay, check=was_paid)
"""


async def test_checks_decide_what_a_kill_left_in_doubt(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/payer.py").write_text(CHECKED)
    ledger, names = tmp_path / "actors/ledger.txt", ["happened", "refused", "unknown"]
    actors, where = {"MESH_AGENTS__DIR": str(tmp_path / "actors")}, ("--data", str(tmp_path / "data"))
    async with mesh_up(tmp_path / "data", **actors) as first:
        tasks = [await first.submit(name, agent_id="payer", capability="paying") for name in names]
        while not ledger.exists() or len(ledger.read_text().splitlines()) < len(names):
            await asyncio.sleep(0.05)
        await first.kill()
    (tmp_path / "actors/go").touch()
    keys = dict(line.split() for line in ledger.read_text().splitlines())
    async with mesh_up(tmp_path / "data", **actors) as second:
        outcomes = [await second.outcome(task_id) for task_id in tasks[:2]]
        assert [outcome["result"]["text"] for outcome in outcomes] == ["receipt 8", "paid again"]
        await second.until(lambda event: event["event_type"] == "task.waiting")
        [question] = (await second.get("/inbox")).body["items"]
        assert question["subject"]["check"] == f"the ledger has unknown {keys['unknown']}"
        page = (await mesh("inbox", *where)).out
        seen = f"in doubt: pay; its check saw: the ledger has unknown {keys['unknown']}"
        assert seen in " ".join(page.split())
        done = await mesh("deny", question["id"], "--reason", "receipt 9", *where)
        assert done.status == 0, done.err
        assert (await second.outcome(tasks[2]))["result"]["text"] == "receipt 9"
        events = (await mesh("events", "--task", tasks[0], *where)).out
        assert re.search(r"step\.checked .*pay happened .*the ledger has happened", events), events
        steps = (await mesh("task", tasks[0], "--steps", *where)).out
        assert re.search(r"check pay .*happened: the ledger has happened", steps), steps
    assert Counter(line.split()[0] for line in ledger.read_text().splitlines()) == {
        "happened": 1,
        "refused": 2,
        "unknown": 1,
    }
    assert ledger.read_text().split().count(keys["refused"]) == 2, "the second payment has another key"


async def test_a_stop_drains_and_the_next_start_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with FakeOpenAI(seconds=0.2) as provider:
        environment = {"LITELLM_BASE_URL": provider.url, "MESH_AGENTS__MAX_CONCURRENCY": "2"}
        async with mesh_up(data, **environment) as first:
            ids = await publish(first)
            assert json.loads((data / "mesh.json").read_text()) == {
                "url": first.url,
                "pid": first.process.pid,
            }
            await first.until(some_have_ended(2))
            assert await first.stop() == 0
        assert not (data / "mesh.json").exists()
        assert "Traceback" not in await first.errors.whole()
        async with mesh_up(data, LITELLM_BASE_URL=provider.url) as second:
            outcomes = await all_of([second.outcome(task_id) for task_id in ids.values()])
    assert [outcome["error"] for outcome in outcomes] == [None] * TASKS
    assert {asked(provider, key) for key in ids} == {1}, "a drained task was done twice"


async def test_a_cancelled_task_ends_as_cancelled(tmp_path: Path) -> None:
    async with (
        FakeOpenAI(seconds=60.0) as provider,
        mesh_up(tmp_path / "data", LITELLM_BASE_URL=provider.url) as running,
    ):
        task_id = await running.submit("Hello")
        await provider.arrived.wait()
        done = await mesh("cancel", task_id, "--data", str(running.data))
        assert done.status == 0
        assert (await running.story(task_id))[-1]["event_type"] == "task.cancelled"
        await provider.abandoned.wait()


@pytest.mark.parametrize("same", ["data", "port"])
async def test_a_second_mesh_on_the_same_data_or_port_says_so_in_one_line(tmp_path: Path, same: str) -> None:
    async with mesh_up(tmp_path / "data") as running:
        port = running.url.rpartition(":")[2] if same == "port" else "0"
        data = tmp_path / ("data" if same == "data" else "other")
        done = await mesh("up", "--port", port, "--data", str(data))
        assert (done.status, done.out) == (1, "")
        [line] = done.err.splitlines()
        assert (str(data) if same == "data" else f"port {port}") in line
        assert not (tmp_path / "other").exists(), "it began before it knew that it could be asked"
        assert (await running.get("/healthz")).status == 200
        assert json.loads((running.data / "mesh.json").read_text())["url"] == running.url
