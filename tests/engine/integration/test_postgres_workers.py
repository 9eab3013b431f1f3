"""Several processes of one mesh on PostgreSQL: tasks end although workers are killed."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from meshwright.parts.proving.processes import writer_pids
from tests.support.mesh_forks import Forked
from tests.support.postgres import PASSWORD, Address, Cluster
from tests.support.running_mesh import MESH, mesh, start

SLEEPER = """
from meshwright import Agent, Capability, Run


class Sleeper(Agent):
    agent_id = "sleeper"
    capabilities = (Capability("sleeping"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "sleep":
            await run.sleep(seconds=3)
        return "rested"
"""
AGENT = """
import asyncio

from meshwright import Agent, Capability, Run


class Slow(Agent):
    agent_id = "slow"
    capabilities = (Capability("slow"),)
    max_concurrency = 20
    prompt_text = "Be slow."

    async def run(self, run: Run) -> str:
        first = await run.step("first", self.first)
        await asyncio.sleep(0.5)
        return first

    async def first(self) -> str:
        return "done"
"""
TASKS, SLOTS = 24, 4
WRITER = """
import asyncio
import os
from pathlib import Path

from meshwright import Agent, Capability, Run

DONE, GO = Path("done"), Path("go")


class Writer(Agent):
    agent_id = "writer"
    capabilities = (Capability("writing"),)
    max_concurrency = 4
    prompt_text = "Write."

    async def run(self, run: Run) -> str:
        await run.step("first", lambda: self.write(f"{run.task.text} first"))
        while not GO.exists():
            await asyncio.sleep(0.02)
        return await run.step("second", lambda: self.write(f"{run.task.text} second"))

    async def write(self, line: str) -> str:
        with DONE.open("a") as file:
            file.write(f"{line} {os.getpid()}\\n")
        return line
"""


BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"


@asynccontextmanager
async def process(folder: Path, url: Address, *arguments: str, **environment: str) -> AsyncIterator[Forked]:
    folder.mkdir(exist_ok=True)
    with (folder / "stderr").open("wb") as stderr:
        stdout = PIPE if arguments[0] == "up" else DEVNULL
        command = [*MESH, *arguments, "--data", str(folder / "data")]
        around = {"MESH_DATABASE": url, **environment}
        started = await start(command, around, cwd=folder.parent, stdout=stdout, stderr=stderr)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(front: Forked) -> str:
    assert front.stdout is not None
    line = (await front.stdout.readline()).decode()
    assert line.startswith("ready "), line
    return line.split()[1]


async def test_tasks_of_killed_workers_end_on_the_others(tmp_path: Path, postgres_url: Address) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "slow.py").write_text(AGENT)
    up = ("up", "--port", "0", "--trust")
    async with (
        process(tmp_path / "one", postgres_url, *up) as one,
        process(tmp_path / "two", postgres_url, *up) as two,
        aiohttp.ClientSession() as http,
    ):
        urls = [await ready(one), await ready(two)]

        async def submit(number: int) -> str:
            body = {"agent_id": "slow", "payload": {"text": str(number)}}
            async with http.post(f"{urls[number % 2]}/tasks", json=body) as answer:
                assert answer.status == 202, await answer.text()
                return (await answer.json())["task_id"]

        async def ended() -> dict[str, str]:
            async with http.get(f"{urls[1]}/tasks", params={"limit": "100"}) as answer:
                return {task["task_id"]: task["status"] for task in (await answer.json())["items"]}

        async def leases() -> list[str]:
            async with http.get(f"{urls[1]}/figures") as answer:
                return [worker["lease"] for worker in (await answer.json())["workers"]]

        async def listed(*wanted: str) -> None:
            while await leases() != [*wanted]:
                await asyncio.sleep(0.05)

        async with asyncio.timeout(240):
            await listed("held", "held")
            tasks = await asyncio.gather(*(submit(number) for number in range(TASKS)))
            one.send_signal(signal.SIGKILL)
            await listed("held", "expired")
            while await ended() != dict.fromkeys(tasks, "succeeded"):
                await asyncio.sleep(0.05)
    for name in ("one", "two"):
        assert PASSWORD not in (tmp_path / name / "stderr").read_text()


async def test_requests_at_each_front_wait_for_tasks_that_run_at_the_other(
    tmp_path: Path, postgres_url: Address
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "slow.py").write_text(AGENT)
    up = ("up", "--port", "0", "--trust")
    async with (
        process(tmp_path / "one", postgres_url, *up) as one,
        process(tmp_path / "two", postgres_url, *up) as two,
        aiohttp.ClientSession() as http,
        asyncio.timeout(120),
    ):
        urls = [await ready(one), await ready(two)]

        async def call(method: str, url: str, **options: Any) -> dict[str, Any]:
            async with http.request(method, url, **options) as answer:
                return await answer.json()

        async def submit(number: int) -> set[str]:
            body = {"agent_id": "slow", "task_id": f"task-{number}"}
            waiting = [call("POST", f"{url}/tasks", params={"wait": "100"}, json=body) for url in urls]
            await call("POST", f"{urls[number % 2]}/tasks", json=body)
            shown = [call("GET", f"{url}/tasks/task-{number}", params={"wait": "100"}) for url in urls]
            return {task["status"] for task in await asyncio.gather(*waiting, *shown)}

        assert await asyncio.gather(*(submit(number) for number in range(6))) == [{"succeeded"}] * 6


SHARED = """
import asyncio
import os
from pathlib import Path

from meshwright import Agent, Capability, Run


class Shared(Agent):
    agent_id = "shared"
    capabilities = (Capability("shared"),)
    max_concurrency = 2

    async def run(self, run: Run) -> str:
        with Path("began").open("a") as file:
            file.write(f"{run.task.text} {os.getpid()}\\n")
        while not Path("go").exists():
            await asyncio.sleep(0.02)
        return run.task.text
"""


async def test_a_worker_with_free_slots_gets_tasks_that_wait_on_another(
    tmp_path: Path, postgres_url: Address
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "shared.py").write_text(SHARED)
    up = ("up", "--port", "0", "--trust")
    async with (
        process(tmp_path / "one", postgres_url, *up) as one,
        process(tmp_path / "two", postgres_url, *up) as two,
        aiohttp.ClientSession() as http,
    ):
        url, _ = await ready(one), await ready(two)
        began = tmp_path / "began"
        ids = []
        for number in range(4):
            body = {"capability": "shared", "payload": {"text": str(number)}}
            async with http.post(f"{url}/tasks", json=body) as response:
                ids.append((await response.json())["task_id"])
        async with asyncio.timeout(30):
            while not began.exists() or len(began.read_text().splitlines()) < 4:
                await asyncio.sleep(0.05)
        runs = Counter(int(line.split()[1]) for line in began.read_text().splitlines())
        assert runs == {one.pid: 2, two.pid: 2}
        (tmp_path / "go").touch()
        async with asyncio.timeout(60):
            for task_id in ids:
                status = ""
                while status != "succeeded":
                    async with http.get(f"{url}/tasks/{task_id}") as response:
                        status = (await response.json())["status"]


async def test_a_worker_that_freezes_in_a_commit_holds_up_no_other(
    tmp_path: Path, postgres_url: Address
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "slow.py").write_text(AGENT)
    up = ("up", "--port", "0", "--trust")
    async with (
        process(tmp_path / "one", postgres_url, *up, MESH_WRITER="process") as one,
        process(tmp_path / "two", postgres_url, *up) as two,
        asyncio.timeout(240),
        aiohttp.ClientSession(await ready(one)) as of_one,
        aiohttp.ClientSession(await ready(two)) as of_two,
        await psycopg.AsyncConnection.connect(postgres_url) as other,
    ):
        await other.execute("LOCK TABLE events IN SHARE MODE")
        body = {"agent_id": "slow", "payload": {"text": "hello"}}
        lost = asyncio.create_task(of_one.post("/tasks", json=body))
        while not await (await other.execute(BLOCKED, (other.info.backend_pid,))).fetchall():
            await asyncio.sleep(0.02)
        for pid in (one.pid, *writer_pids(one.pid)):
            os.kill(pid, signal.SIGSTOP)
        await other.rollback()  # one writes its events, and keeps the log locked
        async with of_two.post("/tasks", json=body) as answer:
            assert answer.status == 202, await answer.text()
            task_id = (await answer.json())["task_id"]
        status = ""
        while status != "succeeded":
            await asyncio.sleep(0.02)
            async with of_two.get(f"/tasks/{task_id}") as answer:
                status = (await answer.json())["status"]
        lost.cancel()
        for pid in (one.pid, *writer_pids(one.pid)):
            os.kill(pid, signal.SIGCONT)
        while status != "accepted":  # under another name
            async with of_one.post("/tasks", json=body) as answer:
                status = "accepted" if answer.status == 202 else await answer.text()


async def test_a_rollout_with_open_work_repeats_no_step(tmp_path: Path, postgres_url: Address) -> None:
    """A front is drained as by a pod's preStop, a worker gets no time at all, and both are replaced."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "writer.py").write_text(WRITER)
    up, drain = (
        ("up", "--port", "0", "--trust"),
        ("drain", "--json", "--data", str(tmp_path / "old" / "data")),
    )

    def done() -> list[list[str]]:
        file = tmp_path / "done"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    async with (
        asyncio.timeout(240),
        process(tmp_path / "old", postgres_url, *up) as old,
        process(tmp_path / "worker", postgres_url, "worker", "--trust", MESH_DRAIN_SECONDS="0") as worker,
        aiohttp.ClientSession(await ready(old)) as http,
    ):
        for number in range(TASKS):
            body = {"agent_id": "writer", "payload": {"text": str(number)}}
            async with http.post("/tasks", json=body) as answer:
                assert answer.status == 202, await answer.text()
        while len(done()) < 2 * SLOTS:
            await asyncio.sleep(0.02)
        assert {pid for _, _, pid in done()} == {str(old.pid), str(worker.pid)}
        assert json.loads((await mesh(*drain)).out)["running"] == SLOTS
        begun = {number for number, _, pid in done() if pid == str(old.pid)}
        async with process(tmp_path / "new", postgres_url, *up) as new:
            url = await ready(new)
            worker.terminate()
            assert await worker.wait() == 0
            (tmp_path / "go").touch()
            assert json.loads((await mesh(*drain, "--wait")).out)["running"] == 0
            old.terminate()
            assert await old.wait() == 0
            async with aiohttp.ClientSession(url) as there:
                statuses: list[str] = []
                while statuses != ["succeeded"] * TASKS:
                    async with there.get("/tasks", params={"limit": "100"}) as answer:
                        statuses = [task["status"] for task in (await answer.json())["items"]]
    wanted = [(str(number), name) for number in range(TASKS) for name in ("first", "second")]
    assert sorted((number, name) for number, name, _ in done()) == sorted(wanted)
    of_worker = {number for number, _, pid in done() if pid == str(worker.pid)}
    ended_by = {number: pid for number, name, pid in done() if name == "second"}
    assert len(begun) == len(of_worker) == SLOTS and {ended_by[number] for number in begun} == {str(old.pid)}
    assert {ended_by[number] for number in of_worker} == {str(new.pid)}


async def test_processes_with_one_data_folder_each_find_one_of_their_own(
    tmp_path: Path, postgres_url: Address
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "slow.py").write_text(AGENT)
    folder, up = tmp_path / "one" / "data", ("up", "--port", "0", "--trust")
    async with (
        asyncio.timeout(240),
        process(tmp_path / "one", postgres_url, "worker", "--trust"),
        process(tmp_path / "one", postgres_url, *up) as first,
        process(tmp_path / "one", postgres_url, *up) as second,
    ):
        urls = {await ready(front): front for front in (first, second)}
        while len([*folder.rglob("mesh.lock")]) < 3:
            await asyncio.sleep(0.02)
        here = {json.loads(file.read_text())["url"]: file.parent for file in folder.rglob("mesh.json")}
        assert here.keys() == urls.keys()
        assert all((own / "mesh.sock").is_socket() for own in here.values())
        token = (folder / "admin.token").read_text().strip()
        for url, front in urls.items():
            known = {"Authorization": f"Bearer {token}"}
            async with aiohttp.ClientSession(url, headers=known) as http, http.get("/keys") as answer:
                assert answer.status == 200
            asked = await mesh("workers", "--json", "--data", str(folder))  # of the front that is left
            assert (asked.status, len(json.loads(asked.out)) >= 2) == (0, True), asked.err
            front.terminate()
            assert await front.wait() == 0
    assert [*folder.rglob("secret.key")] in ([], [folder / "secret.key"])


async def test_a_mesh_goes_on_when_its_database_has_restarted(tmp_path: Path, own_postgres: Cluster) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "sleeper.py").write_text(SLEEPER)
    async with (
        process(tmp_path / "one", own_postgres.url(), "up", "--port", "0", "--trust") as front,
        asyncio.timeout(240),
        aiohttp.ClientSession(await ready(front)) as http,
    ):

        async def submit(text: str) -> str | None:
            body = {"agent_id": "sleeper", "payload": {"text": text}}
            async with http.post("/tasks", json=body) as answer:
                assert answer.status in (202, 503), await answer.text()
                return (await answer.json()).get("task_id")

        async def is_ready() -> bool:
            async with http.get("/readyz") as answer:
                return answer.status == 200

        async def ended() -> set[str]:
            async with http.get("/tasks", params={"status": "succeeded"}) as answer:
                items = (await answer.json())["items"] if answer.status == 200 else []
                return {task["task_id"] for task in items}

        for _ in range(2):
            asleep, awake = await submit("sleep"), await submit("work")
            while awake not in await ended():
                await asyncio.sleep(0.05)
            own_postgres.stop(signal.SIGINT)
            while await is_ready():
                await asyncio.sleep(0.05)
            assert await submit("refused") is None
            own_postgres.start()
            while not await is_ready():
                await asyncio.sleep(0.05)
            while (after := await submit("work")) is None:
                await asyncio.sleep(0.05)
            while not {asleep, after} <= await ended():
                await asyncio.sleep(0.05)
    assert PASSWORD not in (tmp_path / "one" / "stderr").read_text()


class Front:
    """A mesh whose database a test takes away, by its API."""

    def __init__(self, http: aiohttp.ClientSession, database: Cluster) -> None:
        self.http, self.database = http, database

    async def call(self, path: str, **params: str) -> dict[str, Any] | None:
        async with self.http.get(path, params=params) as answer:
            return await answer.json() if answer.status == 200 else None

    async def status_of(self, task_id: str) -> str | None:
        task = await self.call(f"/tasks/{task_id}")
        return None if task is None else task["status"]

    async def events(self, **named: str) -> list[dict[str, Any]]:
        page = await self.call("/events", limit="1000", **named)
        return [] if page is None else page["items"]

    async def work(self) -> str:
        """Have a task done, as soon as the mesh accepts one."""
        body = {"agent_id": "sleeper", "payload": {"text": "work"}}
        status = 0
        while status != 202:
            async with self.http.post("/tasks", json=body) as answer:
                status, task_id = answer.status, (await answer.json()).get("task_id")
        while await self.status_of(task_id) != "succeeded":
            await asyncio.sleep(0.05)
        return task_id

    async def take_away(self) -> None:
        """Stop the database, and wait until the mesh has noticed."""
        self.database.stop(signal.SIGINT)
        while await self.call("/readyz") is not None:
            await asyncio.sleep(0.05)


async def test_a_database_that_came_back_older_is_noticed(tmp_path: Path, own_postgres: Cluster) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "sleeper.py").write_text(SLEEPER)
    async with (
        process(tmp_path / "one", own_postgres.url(), "up", "--port", "0", "--trust") as running,
        asyncio.timeout(240),
        aiohttp.ClientSession(url := await ready(running)) as http,
    ):
        front = Front(http, own_postgres)
        kept = await front.work()
        await front.take_away()
        copy = own_postgres.copy()
        own_postgres.start()
        lost = [await front.work() for _ in range(5)]
        assert await front.events(event_type="store.loss_noticed") == [], "nothing was lost by then"
        last = max(event["seq"] for event in await front.events())
        await front.take_away()
        own_postgres.restore(copy)
        own_postgres.start()
        after = await front.work()
        [noticed] = await front.events(event_type="store.loss_noticed")
        loss = noticed["payload"]
        assert loss["last_seq"] < last <= loss["lost_until_seq"]
        assert await front.status_of(kept) == "succeeded"
        assert {await front.status_of(task_id) for task_id in lost} == {None}
        seqs = [event["seq"] for event in await front.events() if event["task_id"] == after]
        assert min(seqs) > loss["lost_until_seq"], "a number was given twice"
        shown = await mesh("status", "--url", url)
        assert "database came back older" in shown.out and str(loss["lost_until_seq"]) in shown.out, shown
    said = (tmp_path / "one" / "stderr").read_text()
    assert f"came back older than it was: events {loss['last_seq'] + 1} to {loss['lost_until_seq']}" in said


CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meshwright'"


async def test_a_process_gets_along_with_five_connections(tmp_path: Path, own_postgres: Cluster) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "sleeper.py").write_text(SLEEPER)
    own_postgres.query(f"CREATE ROLE poor LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 5")
    own_postgres.query("GRANT USAGE, CREATE ON SCHEMA public TO poor")
    url = Address(own_postgres.url().replace("//mesh:", "//poor:"))
    async with (
        process(tmp_path / "one", url, "up", "--port", "0", "--trust") as running,
        asyncio.timeout(240),
        aiohttp.ClientSession(await ready(running)) as http,
    ):
        front = Front(http, own_postgres)
        for _ in range(5):
            await front.work()
        assert 4 <= own_postgres.rows(CONNECTIONS)[0][0] <= 5
        own_postgres.query("ALTER ROLE poor CONNECTION LIMIT 10")
        async with process(tmp_path / "two", url, "worker"):
            while own_postgres.rows("SELECT count(*) FROM workers") != [(2,)]:
                await asyncio.sleep(0.05)
            for _ in range(5):
                await front.work()
            [(count,)] = own_postgres.rows(CONNECTIONS)
            assert 7 <= count <= 10
    said = (tmp_path / "one" / "stderr").read_text() + (tmp_path / "two" / "stderr").read_text()
    assert "too many connections" not in said, said
