"""Messages of chats to a mesh that is killed: one task and one reply each, in order in each conversation, and
each answer to one question.

The receiver drops a repeat by its `webhook-id`. `CHAT_MESSAGES` and `CHAT_KILLS` make it larger: 1000
and 20 is the whole.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.fake_chats import WHSEC, FakeChats, standard_headers
from tests.support.running_mesh import RunningMesh, mesh_up

MESSAGES = int(os.environ.get("CHAT_MESSAGES", "200"))
KILLS = int(os.environ.get("CHAT_KILLS", "2"))
pytestmark = pytest.mark.timeout(600 + MESSAGES // 5 + KILLS * 10)
THREADS = 10
QUESTIONS = KILLS * 4
AGENT = '''
"""An agent that answers with its request, or with what a person says to it."""

from meshwright import Agent, Capability, Run


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        if not run.task.text.startswith("ask"):
            return run.task.text
        return f"{await run.ask_person('first?')} {await run.ask_person('second?')}"
'''


class Senders:
    """One sender for each conversation: the next message once the one before is accepted, again till then."""

    def __init__(self) -> None:
        self.tasks: dict[str, set[str]] = {}
        self._changed = asyncio.Condition()
        self._is_up = asyncio.Event()
        self._url = ""

    def at(self, url: str) -> None:
        self._url = url
        self._is_up.set()

    async def cut_off(self, running: RunningMesh) -> None:
        self._is_up.clear()
        await running.kill()

    async def until(self, accepted: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.tasks) >= accepted)

    async def send_all(self, chats: FakeChats) -> None:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            group.create_task(self._answer(session, chats))
            for thread in range(THREADS):
                group.create_task(self._send(session, thread))

    async def _send(self, session: aiohttp.ClientSession, thread: int) -> None:
        for number in range(thread, MESSAGES, THREADS):
            task_ids = await self._deliver(session, f"m-{number}", str(number), str(thread), 1 + number % 2)
            async with self._changed:
                self.tasks[f"m-{number}"] = task_ids
                self._changed.notify_all()

    async def _answer(self, session: aiohttp.ClientSession, chats: FakeChats) -> None:
        """Have tasks ask two questions each; each answer is given once it is asked for, and three times."""
        for number in range(QUESTIONS):
            asked = await self._deliver(session, f"q-{number}", f"ask {number}", "questions")
            for order, wanted in enumerate(("first?", "second?")):
                content = f"{wanted}\n\nReply here to answer."
                await chats.until_posted(reply_to=f"q-{number}", content=content)
                answer = f"{number}.{order}"
                assert await self._deliver(session, f"a-{answer}", answer, "questions", 3) == asked
            await chats.until_posted(reply_to=f"q-{number}", content=f"{number}.0 {number}.1")

    async def _deliver(
        self, session: aiohttp.ClientSession, message_id: str, content: str, thread: str, times: int = 1
    ) -> set[str]:
        """Deliver a message until it was accepted so often; the tasks that it is said to be of."""
        message = {"id": message_id, "sender": "ada", "content": content, "thread_id": thread}
        body = json.dumps(message).encode()
        task_ids: set[str] = set()
        while times:
            await self._is_up.wait()
            headers = standard_headers(message_id, body)
            try:
                async with session.post(f"{self._url}/channels/chat", data=body, headers=headers) as response:
                    assert response.status in (200, 429, 503), await response.text()
                    if response.status != 200:
                        continue
                    [known] = (await response.json())["accepted"]
            except aiohttp.ClientError:  # it was killed
                continue
            times -= 1
            task_ids.add(known["task_id"])
        return task_ids


async def test_each_message_has_one_reply_in_order_through_kills(tmp_path: Path) -> None:
    actors = tmp_path / "actors"
    actors.mkdir()
    (actors / "echo.py").write_text(AGENT)
    senders = Senders()
    async with FakeChats() as chats, asyncio.TaskGroup() as group:
        channel = {"kind": "http", "agent": "echo", "secret": WHSEC, "url": f"{chats.url}/in"}
        settings: dict[str, Any] = {"MESH_AGENTS__DIR": str(actors), "MESH_DURABILITY": "normal"}
        settings["MESH_CHANNELS"] = json.dumps(
            {"chat": channel | {"networks": ["127.0.0.0/8"], "answer_by": ["ada"]}}
        )
        sending = group.create_task(senders.send_all(chats))
        for kill in range(KILLS):
            async with mesh_up(tmp_path / "data", **settings) as running:
                senders.at(running.url)
                await senders.until((kill + 1) * MESSAGES // (KILLS + 1))
                await senders.cut_off(running)
        async with mesh_up(tmp_path / "data", **settings) as running:
            senders.at(running.url)
            await sending
            posts = await chats.until(MESSAGES + QUESTIONS * 3)
    assert all(len(tasks) == 1 for tasks in senders.tasks.values()) and len(senders.tasks) == MESSAGES
    assert len(posts) == MESSAGES + QUESTIONS * 3
    for thread in range(THREADS):
        own = [post["reply_to"] for post in posts if post["thread_id"] == str(thread)]
        assert own == [f"m-{number}" for number in range(thread, MESSAGES, THREADS)], "one each, in order"
