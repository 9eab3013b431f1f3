"""Outcomes go back to where their tasks came from, at least once, whatever the scheme and through a crash."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, TaskRequest
from meshwright.agents.run.erasure import Eraser
from meshwright.core.errors import TooLarge
from meshwright.core.messages import Caller
from meshwright.edges.replies import table
from meshwright.edges.replies.courier import Address, Courier, Sender, Undeliverable
from meshwright.edges.replies.table import MAX_CLIENTS, SenderKey
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.task_lists import TaskSubject
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.mqtt_broker import payloads_of
from tests.support.settings import load_settings

TASK = TaskKey("default", "t1")


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return f"you said: {run.task.text}"


class Mailbox(Address, kw_only=True):
    """A place in memory."""

    box: str


class MailSender(Sender[Mailbox]):
    """Puts outcomes into a list; fails as often as it is told to."""

    scheme = "mail"
    kind = Mailbox
    scope = "tests"

    def __init__(self, failures: int = 0, error: type[Exception] = ConnectionError) -> None:
        self.received: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.tries: asyncio.Queue[str] = asyncio.Queue()
        self._failures = failures
        self._error = error

    async def send(self, address: Mailbox, document: bytes) -> None:
        self.tries.put_nowait(address.box)
        if self._failures:
            self._failures -= 1
            raise self._error("nobody answers")
        self.received.put_nowait((address.box, json.loads(document)))

    async def next(self) -> tuple[str, Any]:
        return await asyncio.wait_for(self.received.get(), 60)


@asynccontextmanager
async def mailing(folder: Path, sender: MailSender, **given: Any) -> AsyncIterator[Mesh]:
    settings = load_settings(folder, model="offline", durability="normal", **given)
    mesh = build_mesh(settings, project=folder, agents=[Echo])
    mesh.get(Courier).register(sender)
    async with mesh:
        yield mesh


async def submit(mesh: Mesh, *boxes: str) -> None:
    """Give the mesh TASK, with an address for each box."""
    for box in boxes:
        await mesh.get(Courier).ask("mail", TASK, Mailbox(box=box, client=box))
    await mesh.get(Tasks).submit(
        TaskRequest(agent_id="echo", task_id=TASK.task_id, payload={"text": "hello"})
    )


async def test_a_second_scheme_gets_outcomes_at_its_addresses(tmp_path: Path) -> None:
    sender = MailSender()
    async with mailing(tmp_path, sender) as mesh:
        await submit(mesh, "ada", "bob")
        received = [await sender.next(), await sender.next()]
    assert [box for box, _ in received] == ["ada", "bob"]
    assert all(outcome["result"] == {"text": "you said: hello"} for _, outcome in received)


async def test_addresses_are_erased_with_their_task(tmp_path: Path) -> None:
    sender = MailSender()
    async with mailing(tmp_path, sender) as mesh:
        await submit(mesh, "ada's telephone")
        await sender.next()
        other = TaskKey("default", "t2")
        for task in (other, TaskKey("acme", TASK.task_id)):
            await mesh.get(Courier).ask("mail", task, Mailbox(box="bob", client="bob"))
        await mesh.get(Eraser).erase(Caller(), TaskSubject(task_id=TASK.task_id))
        assert await mesh.get(Courier).asked("mail", TASK) == []
        assert len(await mesh.get(Courier).asked("mail", other)) == 1
        assert len(await mesh.get(Courier).asked("mail", TaskKey("acme", TASK.task_id))) == 1


CRASH = """
import asyncio, os, sys
from pathlib import Path
from tests.edges.integration.test_replies import MailSender, mailing, submit

class Killed(MailSender):
    async def send(self, address, document):
        await asyncio.sleep(0.5)  # a position that is stored too early is stored by then
        os._exit(9)  # the outcome is on disk, and its receiver does not have it

async def main():
    async with mailing(Path(sys.argv[1]), Killed()) as mesh:
        await submit(mesh, "ada")
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_reply_is_sent_after_a_crash_in_the_middle_of_sending(tmp_path: Path) -> None:
    crashed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CRASH, str(tmp_path)], timeout=60
    )
    assert crashed.returncode == 9
    sender = MailSender()
    async with mailing(tmp_path, sender):
        box, outcome = await sender.next()
    assert (box, outcome["task_id"], outcome["success"]) == ("ada", "t1", True)


async def test_a_reply_that_fails_is_sent_again(tmp_path: Path) -> None:
    sender = MailSender(failures=2)
    async with mailing(tmp_path, sender) as mesh:
        await submit(mesh, "ada")
        box, _ = await sender.next()
    assert box == "ada"
    assert sender.tries.qsize() == 3


async def test_a_failed_reply_outlives_a_restart_and_holds_nobody_up(tmp_path: Path) -> None:
    away = MailSender(failures=1_000)
    async with mailing(tmp_path, away) as mesh:
        await submit(mesh, "ada")
        await asyncio.wait_for(away.tries.get(), 60)
        await mesh.get(Courier).ask("mail", TaskKey("default", "t2"), Mailbox(box="bob"))
        await mesh.get(Tasks).submit(TaskRequest(agent_id="echo", task_id="t2"))
        while await asyncio.wait_for(away.tries.get(), 60) != "bob":
            pass
    back = MailSender()
    async with mailing(tmp_path, back) as mesh:
        boxes: set[str] = set()
        while boxes != {"ada", "bob"}:  # one of them may come twice
            boxes.add((await back.next())[0])
        await settled(mesh)
    again = MailSender()
    async with mailing(tmp_path, again) as mesh:
        await mesh.get(Courier).ask("mail", TaskKey("default", "t3"), Mailbox(box="eve"))
        await mesh.get(Tasks).submit(TaskRequest(agent_id="echo", task_id="t3"))
        assert (await again.next())[0] == "eve", "what was delivered is not sent again"


async def settled(mesh: Mesh) -> None:
    """Wait until it is stored that every outcome has been delivered."""
    ended = await mesh.log.query(EventFilter(event_type="task.succeeded", order="desc", limit=1))
    async with asyncio.timeout(240):
        while True:
            key = SenderKey(MailSender.scheme, MailSender.scope)
            progress = await mesh.database.read(table.progress, key)
            unsent = await mesh.database.read(table.unsent, key)
            if progress is not None and not unsent and progress.seq >= (ended[0].seq or 0):
                return
            await asyncio.sleep(0.01)


async def test_a_reply_that_nobody_will_take_is_reported(tmp_path: Path) -> None:
    sender = MailSender(failures=1, error=Undeliverable)
    async with mailing(tmp_path, sender) as mesh:
        await submit(mesh, "ada")
        [dropped] = await payloads_of(mesh, "reply.dropped")
    assert dropped == {"scheme": "mail", "reason": "nobody answers"}
    assert sender.tries.qsize() == 1


async def test_too_many_clients_of_a_task_are_refused(tmp_path: Path) -> None:
    async with mailing(tmp_path, MailSender()) as mesh:
        courier = mesh.get(Courier)
        for number in range(MAX_CLIENTS):
            await courier.ask("mail", TASK, Mailbox(box="b", client=f"c{number}"))
        with pytest.raises(TooLarge):
            await courier.ask("mail", TASK, Mailbox(box="b", client="one-more"))


async def test_one_of_two_fronts_sends_and_the_other_takes_over(tmp_path: Path, postgres_url: str) -> None:
    first, second = MailSender(), MailSender()
    async with (
        mailing(tmp_path / "two", second, database=postgres_url) as other,
        mailing(tmp_path / "one", first, database=postgres_url) as mesh,
    ):
        await submit(mesh, "ada")
        assert (await second.next())[0] == "ada", "the front that came first sends"
        await settled(other)
        assert first.tries.empty()
        await mesh.get(Courier).ask("mail", TASK, Mailbox(box="late"), may_have_ended=True)
        assert (await second.next())[0] == "late"
        await other.stop()
        await mesh.get(Courier).ask("mail", TaskKey("default", "t2"), Mailbox(box="bob"))
        await mesh.get(Tasks).submit(TaskRequest(agent_id="echo", task_id="t2"))
        assert (await first.next())[0] == "bob"
    assert second.tries.qsize() == 2


async def test_outcome_of_a_task_that_has_ended_is_sent_to_a_late_address(tmp_path: Path) -> None:
    sender = MailSender()
    async with mailing(tmp_path, sender) as mesh:
        await submit(mesh, "ada")
        await sender.next()
        await settled(mesh)
        await mesh.get(Courier).ask("mail", TASK, Mailbox(box="bob"), may_have_ended=True)
        assert (await sender.next())[0] == "bob"
        await settled(mesh)
    assert sender.tries.qsize() == 2
