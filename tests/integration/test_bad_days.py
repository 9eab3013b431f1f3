"""Bad days of a mesh on one file: no room, no rights, poison, agents that hang, more than it can take."""

import asyncio
import os
import resource
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.agent import Agent
from meshwright.assembly import build_mesh, embedded_host
from meshwright.capability import Capability
from meshwright.clock import Clock
from meshwright.errors import MailboxFull, StoreFailed, StoreLocked, StoreTooNew, ToolFailed
from meshwright.events.filter import EventFilter
from meshwright.events.log import EventLog
from meshwright.host import Host
from meshwright.mesh import Mesh
from meshwright.messages import Event, Outcome, TaskRequest, new_id
from meshwright.models.offline import OfflineModel
from meshwright.run import Run
from meshwright.settings import Settings
from meshwright.storage.database import FILE_NAME, Database
from meshwright.tracing import NoTracing, Tracing
from tests.faults.evidence import gather
from tests.faults.fleet import Books
from tests.faults.oracle import complaints

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 20


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing"),)

    async def run(self, run: Run) -> str | dict[str, Any]:
        return f"you said: {run.task.text}"


class Gate(Agent):
    """Answers when the test opens it, one task at a time."""

    agent_id = "gate"
    capabilities = (Capability("waiting"),)
    max_concurrency = 1
    opened: asyncio.Event

    async def run(self, run: Run) -> str | dict[str, Any]:
        await self.opened.wait()
        return "opened"


class Boss(Agent):
    """Has somebody else do it, and waits."""

    agent_id = "boss"
    capabilities = (Capability("managing"),)
    delegates_to = ("gate", "nobody")

    async def run(self, run: Run) -> str | dict[str, Any]:
        return await run.delegate(*run.task.text.split(":"))


@dataclass
class Running:
    """A mesh, with what a test does to it."""

    mesh: Mesh
    database: Database
    gate: asyncio.Event

    async def submit(self, agent_id: str, text: str = "Hello", **fields: Any) -> str:
        request = TaskRequest(agent_id=agent_id, payload={"text": text}, **fields)
        return (await self.mesh.submit(request)).task_id

    async def ask(self, agent_id: str, text: str = "Hello", **fields: Any) -> Outcome:
        return await self.outcome(await self.submit(agent_id, text, **fields))

    async def outcome(self, task_id: str) -> Outcome:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.mesh.outcome(task_id)

    async def event(self, event_type: str, task_id: str | None = None) -> Event:
        """The first event of a type, of a task: as soon as there is one."""
        tail = self.mesh.log.tail(EventFilter(event_type=event_type, task_id=task_id, after_seq=0))
        async with asyncio.timeout(PATIENCE_SECONDS):
            event = await anext(tail)
        await tail.aclose()
        return event

    async def types(self, task_id: str) -> Counter[str]:
        return Counter(event.event_type for event in await self.mesh.log.query(EventFilter(task_id=task_id)))


def build(folder: Path, *others: type[Agent], **settings: Any) -> Running:
    """A mesh on a folder, not started yet."""
    gate = asyncio.Event()
    databases: list[Database] = []

    def host(database: Database, log: EventLog, clock: Clock, tracing: Tracing | NoTracing) -> Host:
        databases.append(database)
        return embedded_host(database, log, clock, tracing)

    mesh = build_mesh(
        Settings(data_dir=folder / "data", **settings),
        project=ROOT,
        agents=[Echo, type("TestGate", (Gate,), {"opened": gate}), Boss, *others],
        model=OfflineModel(),
        host=host,
    )
    return Running(mesh, databases[0], gate)


@asynccontextmanager
async def up(
    folder: Path, *others: type[Agent], drain_seconds: float = 0, **settings: Any
) -> AsyncIterator[Running]:
    """A running mesh; at its end work is left where it is."""
    running = build(folder, *others, **settings)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running.mesh.start()
    try:
        yield running
    finally:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running.mesh.stop(drain_seconds=drain_seconds)


# The disk


def no_more_room(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 20}")


def no_larger_files(connection: sqlite3.Connection) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    size = path.with_name(f"{path.name}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, hard))


def no_writing(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=ON")


@pytest.fixture
def file_sizes() -> Iterator[None]:
    """Whatever a test does to the limit of file sizes, undone."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def any_size() -> Iterator[None]:
    """Files may grow again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("file_sizes")
@pytest.mark.parametrize("worsen", [no_more_room, no_larger_files, no_writing])
async def test_a_disk_that_takes_no_more_refuses_clearly_and_loses_nothing(
    tmp_path: Path, worsen: Callable[[sqlite3.Connection], None]
) -> None:
    accepted = Books(tmp_path).accepted
    async with up(tmp_path) as running:
        for number in range(5):
            accepted.write([number, await running.submit("gate", thread_id="one" if number % 2 else None)])
        await running.event("task.started")
        await running.database.write(worsen)
        with pytest.raises(StoreFailed, match=f"cannot write to .*{FILE_NAME}: .*make room") as refusal:
            for number in range(5, 300):
                accepted.write([number, await running.submit("gate", "x" * 10_000)])
        assert "\n" not in str(refusal.value)
        with pytest.raises(StoreFailed):
            await running.submit("echo")
        with any_size():
            tasks = [task_id for _, task_id in accepted.read()]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    async with up(tmp_path) as running:
        running.gate.set()
        outcomes = [await running.outcome(task_id) for task_id in tasks]
    assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert complaints(await evidence_of(tmp_path)) == []


async def evidence_of(folder: Path) -> Any:
    """What the oracle looks at, but for model calls: these agents make none."""
    return replace(await gather(folder), model_calls=0)


async def test_a_mesh_whose_disk_fails_says_so_to_those_who_wait_and_still_stops(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        task_id = await running.submit("gate")
        waiting = asyncio.create_task(running.outcome(task_id))
        await running.event("task.started", task_id)
        await running.database.write(no_writing)
        with pytest.raises(StoreFailed):
            await running.submit("echo")
        for name in ("one", "two", "three"):  # there is none of them, which the mesh would like to tell
            running.mesh.prompts.get(name)
            await passes_of_the_loop(100)
        assert not running.mesh.ready
        with pytest.raises(StoreFailed):
            await waiting


async def passes_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_file_that_is_cut_short_under_a_running_mesh_makes_nobody_wait_for_ever(
    tmp_path: Path,
) -> None:
    request = TaskRequest(agent_id="echo", payload={"text": "Hello"})
    async with up(tmp_path) as running:
        for number in range(100):
            await running.mesh.submit(request, idempotency_key=str(number))
        task_id = (await running.mesh.submit(request, idempotency_key="old")).task_id
        await running.outcome(task_id)
    async with up(tmp_path) as running:
        os.truncate(tmp_path / "data" / FILE_NAME, 8192)
        with pytest.raises(StoreFailed, match="mesh.db"):
            await running.mesh.task(task_id)
        with pytest.raises(StoreFailed, match="mesh.db"):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running.mesh.submit(request, idempotency_key="old")
        assert not running.mesh.ready


async def test_a_stop_leaves_everything_in_one_file(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {FILE_NAME, "mesh.lock"}


async def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        for number in range(50):
            await running.submit("gate", f"{number} " * 500)
    path = tmp_path / "data" / FILE_NAME
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert FILE_NAME in line and "malformed; restore it from a copy" in line


async def test_a_folder_that_cannot_be_written_is_refused_in_one_line() -> None:
    status, err = await mesh_up(Path("/proc/mesh"))
    assert status == 1
    [line] = err.splitlines()
    assert "/proc/mesh" in line


async def test_a_file_of_a_newer_version_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    set_version(tmp_path, 99)
    before = (tmp_path / "data" / FILE_NAME).read_bytes()
    with pytest.raises(StoreTooNew, match="has schema version 99, this Meshwright knows"):
        await build(tmp_path).mesh.start()
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert "upgrade Meshwright" in line
    assert (tmp_path / "data" / FILE_NAME).read_bytes() == before


async def test_a_mesh_that_could_not_start_leaves_the_folder_free(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    known = set_version(tmp_path, 99)
    refused = build(tmp_path)
    with pytest.raises(StoreTooNew):
        await refused.mesh.start()
    set_version(tmp_path, known)
    async with up(tmp_path) as running:
        assert (await running.ask("echo")).success


def set_version(folder: Path, version: int) -> int:
    connection = sqlite3.connect(folder / "data" / FILE_NAME)
    (before,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    return before


async def test_a_second_mesh_on_the_same_folder_is_refused_and_disturbs_nobody(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        with pytest.raises(StoreLocked, match=r"is in use by process \d+"):
            await build(tmp_path).mesh.start()
        assert (await running.ask("echo")).success


async def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE_NAME).write_text("to be or not to be " * 1000)
    status, err = await mesh_up(tmp_path / "data")
    assert status == 1
    [line] = err.splitlines()
    assert "file is not a database; restore it from a copy" in line


async def mesh_up(data: Path) -> tuple[int | None, str]:
    """Run `mesh up` where it cannot start: its exit status, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshwright.cli", "up", "--port", "0", "--data", str(data)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out == b""
    return process.returncode, err.decode()


# Poison


def poison(topic: str, payload: Any, task_id: str | None = None) -> Event:
    return Event(
        id=f"stranger/{new_id()}",
        event_type="stranger.spoke",
        topic=topic,
        time="2026-01-01T00:00:00Z",
        task_id=task_id,
        payload=payload,
    )


@pytest.mark.parametrize(
    "event",
    [
        poison("tasks.echo", "no dispatch at all"),
        poison("tasks.echo", {"task": {"task_id": "../../etc"}}),
        poison("task-results", {"task_id": "t", "status": "splendid"}, task_id="t"),
        poison("task-results", None, task_id="t"),
    ],
)
async def test_poison_on_a_topic_is_recorded_and_the_rest_flows_on(tmp_path: Path, event: Event) -> None:
    async with up(tmp_path) as running:
        before = await running.submit("echo", "before", thread_id="one")
        await running.mesh.host.publish(event)
        after = await running.submit("echo", "after", thread_id="one")
        dead = await running.event("message.dead_lettered")
        assert event.id in dead.id
        assert dead.payload["error"]["message"]
        assert [(await running.outcome(task_id)).success for task_id in (before, after)] == [True, True]
    async with up(tmp_path) as running:
        assert (await running.ask("echo", thread_id="one")).success
        letters = await running.mesh.log.query(EventFilter(event_type="message.dead_lettered"))
        assert len(letters) == 1, "it came again after a restart"
    assert complaints(await evidence_of(tmp_path)) == []


# Agents


class Sleeper(Agent):
    """Never answers."""

    agent_id = "sleeper"
    capabilities = (Capability("echoing", preferred=True),)
    max_concurrency = 1

    async def run(self, run: Run) -> str | dict[str, Any]:
        if run.task.text == "wake up":
            return "awake"
        await asyncio.Event().wait()
        raise AssertionError("it never comes here")


async def test_an_agent_that_hangs_runs_into_its_timeout_and_another_takes_over(tmp_path: Path) -> None:
    async with up(tmp_path, Sleeper) as running:
        request = TaskRequest(capability="echoing", payload={"text": "Hello"}, timeout=0.2)
        task_id = (await running.mesh.submit(request)).task_id
        outcome = await running.outcome(task_id)
        assert (outcome.status, outcome.text) == ("succeeded", "you said: Hello")
        first, second = (await running.mesh.task(task_id)).attempts
        assert (first.agent_id, second.agent_id) == ("sleeper", "echo")
        assert first.error is not None and first.error.type == "Timeout"
        assert (await running.ask("sleeper", "wake up")).success, "its slot was not given back"
    assert complaints(await evidence_of(tmp_path)) == []


async def test_an_agent_that_hangs_and_has_no_other_times_out(tmp_path: Path) -> None:
    async with up(tmp_path, Sleeper) as running:
        outcome = await running.ask("sleeper", timeout=0.2, thread_id="one")
        assert (outcome.status, outcome.success) == ("timed_out", False)
        assert (await running.ask("sleeper", "wake up", thread_id="one")).success
    assert complaints(await evidence_of(tmp_path)) == []


class Odd(Agent):
    """Gives, or raises, what no file can hold."""

    agent_id = "odd"
    capabilities = (Capability("oddity"),)

    async def run(self, run: Run) -> str | dict[str, Any]:
        if run.task.text == "raise":
            raise ValueError("no file \udcff of that name")
        return {"object": object()} if run.task.text == "object" else "half a \ud83d pair"


@pytest.mark.parametrize("what", ["object", "raise", "half"])
async def test_an_answer_that_cannot_be_stored_fails_its_task_and_no_other(tmp_path: Path, what: str) -> None:
    async with up(tmp_path, Odd) as running:
        outcome = await running.ask("odd", what, thread_id="one")
        assert outcome.status == "failed"
        assert outcome.error is not None and outcome.error.message
        again = await running.ask("odd", what, thread_id="one")
        assert again.status == "failed"
        assert (await running.ask("echo")).success
    assert complaints(await evidence_of(tmp_path)) == []


class Crowded(Agent):
    """Finds no room on the host at first."""

    agent_id = "crowded"
    capabilities = (Capability("patience"),)
    tries: list[str]

    async def run(self, run: Run) -> str | dict[str, Any]:
        self.tries.append(run.task.task_id)
        if len(self.tries) == 1:
            raise MailboxFull("no room")
        return "at last"


async def test_work_for_which_the_host_had_no_room_is_taken_up_again(tmp_path: Path) -> None:
    crowded = type("TestCrowded", (Crowded,), {"tries": []})
    async with up(tmp_path, crowded) as running:
        assert (await running.ask("crowded")).text == "at last"
    assert complaints(await evidence_of(tmp_path)) == []


class Fickle(Agent):
    """Takes another road each time that it runs."""

    agent_id = "fickle"
    capabilities = (Capability("whims"),)
    runs: list[str]

    async def run(self, run: Run) -> str | dict[str, Any]:
        self.runs.append(run.task.task_id)

        async def nothing() -> str:
            return "nothing"

        await run.step(f"way {len(self.runs)}", nothing)
        await run.step("rest", nothing)
        if len(self.runs) == 1:
            await asyncio.Event().wait()
        return f"arrived in run {len(self.runs)}"


async def test_a_run_that_leaves_its_journal_begins_anew_with_the_same_agent(tmp_path: Path) -> None:
    runs: list[str] = []
    fickle = type("TestFickle", (Fickle,), {"runs": runs})
    async with up(tmp_path, fickle) as running:
        task_id = await running.submit("fickle")
        await running.event("task.started", task_id)
        while not await running.mesh.host.records(thread_of("fickle", task_id), f"steps/{task_id}/1/1"):
            await asyncio.sleep(0)
    async with up(tmp_path, fickle) as running:
        outcome = await running.outcome(task_id)
        assert (outcome.status, outcome.text, outcome.attempt) == ("succeeded", "arrived in run 3", 2)
    assert complaints(await evidence_of(tmp_path)) == []


def thread_of(agent_id: str, task_id: str) -> Any:
    from meshwright.envelope import ActorRef

    return ActorRef(agent_id, f"default:{task_id}")


async def test_a_delegation_that_nobody_can_take_fails_at_once_and_its_parent_hears_of_it(
    tmp_path: Path,
) -> None:
    async with up(tmp_path) as running:
        outcome = await running.ask("boss", "nobody:Hello")
        assert outcome.status == "failed"
        assert outcome.error is not None and "nobody" in outcome.error.message
        assert outcome.error.type == ToolFailed.__name__
    assert complaints(await evidence_of(tmp_path)) == []


# Cancelling


async def test_queued_running_and_waiting_tasks_can_be_cancelled(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        works = await running.submit("gate", thread_id="one")
        await running.event("task.started", works)
        behind = await running.submit("gate", thread_id="one")
        queued = await running.submit("gate")
        waits = await running.submit("boss", "gate:Hello")
        child = (await running.event("task.waiting", waits)).payload["child_task_id"]

        for task_id in (queued, waits, works):
            await running.mesh.cancel(task_id)
            assert (await running.outcome(task_id)).status == "cancelled"
        assert (await running.outcome(child)).status == "cancelled"
        running.gate.set()
        assert (await running.outcome(behind)).status == "succeeded"
        assert "task.started" not in await running.types(queued)
        await running.mesh.cancel(behind)
        assert (await running.outcome(behind)).status == "succeeded", "an end is an end"
    assert complaints(await evidence_of(tmp_path)) == []


# Too much


async def test_a_full_mailbox_refuses_clearly_and_keeps_what_it_took(tmp_path: Path) -> None:
    request = TaskRequest(agent_id="echo", payload={"text": "Hello"})
    async with up(tmp_path) as running:

        async def submit() -> str:
            return (await running.mesh.submit(request, idempotency_key="once")).task_id

        answers = await asyncio.gather(*(submit() for _ in range(1100)), return_exceptions=True)
        accepted = {answer for answer in answers if isinstance(answer, str)}
        refused = [answer for answer in answers if not isinstance(answer, str)]
        assert len(accepted) == 1
        assert len(refused) == 100 and {type(error) for error in refused} == {MailboxFull}
        assert "try again in a moment" in str(refused[0])
        assert {await submit()} == accepted
        assert (await running.outcome(*accepted)).success
    assert complaints(await evidence_of(tmp_path)) == []


async def test_a_stop_in_the_middle_of_recovery_loses_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        tasks = await asyncio.gather(*(running.submit("gate") for _ in range(200)))
    async with up(tmp_path):
        pass
    async with up(tmp_path) as running:
        running.gate.set()
        outcomes = await asyncio.gather(*map(running.outcome, tasks))
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert complaints(await evidence_of(tmp_path)) == []
