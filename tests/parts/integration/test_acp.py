"""Agents of a mesh in an editor that speaks the Agent Client Protocol: `mesh acp`, with the official SDK."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import acp
import pytest
from acp import schema
from pydantic import BaseModel

from meshwright import Agent, Capability, Client, Run, ToolFailed, tool
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import http_mesh
from tests.support.running_mesh import MESH, ROOT, mesh, mesh_up

ADMIN = "admin-token-of-the-tests-0123456789"
ALLOW, REJECT = "allow", "reject"


class Sums(Agent):
    """Adds, and buys where a person lets it; begins when the test says so."""

    agent_id = "sums"
    capabilities = (Capability("adding"),)
    prompt_text = "You add."
    begins: asyncio.Event

    async def run(self, run: Run) -> Any:
        await run.progress("reads")
        await self.begins.wait()
        return await super().run(run)

    @tool
    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tool(needs_approval=True)
    async def buy(self, item: str) -> str:
        """Buy something."""
        return f"bought {item}"


class Size(BaseModel):
    size: str


class Orders(Agent):
    """Asks for a size, as a text or by its fields."""

    agent_id = "orders"
    capabilities = (Capability("ordering"),)
    remembers = False

    async def run(self, run: Run) -> str:
        match run.task.text:
            case "no":
                raise ToolFailed("We have none")
            case "break":
                raise RuntimeError("panic")
            case "fields":
                return f"ordered {(await run.ask_person('Which size?', shape=Size)).size}"
        return f"ordered {await run.ask_person('Which size?')}"


class Teller(Agent):
    """Tells its payload."""

    agent_id = "teller"
    capabilities = (Capability("telling"),)
    remembers = False

    async def run(self, run: Run) -> str:
        files = [[*file.values()] for file in run.task.payload["files"]]
        return json.dumps({"text": run.task.text, "files": files})


class Halting(ScriptedModel):
    """A script whose texts halt after their first word until the test has seen that."""

    def __init__(self, *replies: Any) -> None:
        super().__init__(*replies)
        self.goes_on = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        reply = await super().complete(request)
        if on_delta is not None and reply.content:
            first, space, rest = reply.content.partition(" ")
            on_delta(first + space)
            await self.goes_on.wait()
            on_delta(rest)
        return reply


class Editor(acp.Client):
    """A client that notes what it gets. `decide` answers permissions, `fill` forms."""

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.requests: list[Any] = []
        self.decide: Callable[[Any], str | None] | None = None
        self.content: dict[str, Any] | None = None
        self.permits = asyncio.Event()
        self._more = asyncio.Condition()

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        await self._notify()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: Any, **_: Any
    ) -> schema.RequestPermissionResponse:
        self.requests.append(tool_call)
        await self._notify()
        await self.permits.wait()
        outcome: Any = schema.DeniedOutcome(outcome="cancelled")
        if self.decide is not None and (option := self.decide(options)) is not None:
            outcome = schema.AllowedOutcome(outcome="selected", option_id=option)
        return schema.RequestPermissionResponse(outcome=outcome)

    async def create_elicitation(self, message: str, mode: Any, **_: Any) -> Any:
        self.requests.append(message)
        await self._notify()
        await self.permits.wait()
        if self.content is None:
            return schema.DeclineElicitationResponse(action="decline")
        return schema.AcceptElicitationResponse(action="accept", content=self.content)

    async def until(self, enough: Callable[[], Any]) -> None:
        async with self._more:
            await self._more.wait_for(enough)

    async def _notify(self) -> None:
        async with self._more:
            self._more.notify_all()

    def kinds(self) -> list[str]:
        return [update.session_update for update in self.updates]

    def text(self, kind: str = "agent_message_chunk") -> str:
        chunks = [update for update in self.updates if update.session_update == kind]
        return "".join(chunk.content.text for chunk in chunks)

    def tools(self) -> list[tuple[str, str | None]]:
        """The states of calls, by the tool that their titles begin with."""
        calls = [update for update in self.updates if update.session_update.startswith("tool_call")]
        return [((call.title or "?").split()[0], call.status) for call in calls]


@asynccontextmanager
async def connected(
    editor: Editor, agent: str, *options: str, forms: bool = False, **environment: str
) -> AsyncIterator[tuple[Any, Any]]:
    """A connection that is initialized, and the process of `mesh acp`."""
    async with acp.spawn_agent_process(
        editor,
        *MESH,
        "acp",
        agent,
        *options,
        env={**os.environ, **environment},
        cwd=ROOT,
        transport_kwargs={"stderr": sys.stderr},
        use_unstable_protocol=True,
    ) as (connection, process):
        elicitation = schema.ElicitationCapabilities(form=schema.ElicitationFormCapabilities())
        capabilities = schema.ClientCapabilities(elicitation=elicitation if forms else None)
        answer = await connection.initialize(7, client_capabilities=capabilities)
        assert answer.protocol_version == acp.PROTOCOL_VERSION == 1
        assert answer.agent_info.name == agent and answer.agent_capabilities.load_session
        yield connection, process


async def begun(connection: Any, cwd: Path) -> str:
    return (await connection.new_session(cwd=str(cwd))).session_id


async def say(connection: Any, session_id: str, text: str) -> str:
    """Prompt, and return the reason why the turn ended."""
    answer = await connection.prompt(session_id=session_id, prompt=[acp.text_block(text)])
    return answer.stop_reason


@pytest.fixture
def sums() -> type[Sums]:
    return type("TestSums", (Sums,), {"begins": asyncio.Event(), "__doc__": Sums.__doc__})


async def test_prompt_streams_text_and_tools(tmp_path: Path, sums: type[Sums]) -> None:
    """The editor sees words while the model writes, and a second prompt is of the same thread."""
    editor, model = Editor(), Halting(tool_call("add", a=1, b=2), "It is three, I think.", "Still.")
    async with (
        http_mesh(tmp_path, sums, script=model) as api,
        connected(editor, "sums", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        prompt = asyncio.create_task(say(connection, session_id, "1 + 2?"))
        await editor.until(lambda: editor.text("agent_thought_chunk"))
        sums.begins.set()
        await editor.until(editor.text)
        assert editor.text() == "It " and not prompt.done()
        model.goes_on.set()
        assert await prompt == "end_turn"
        assert editor.text() == "It is three, I think."
        [call] = [update for update in editor.updates if update.session_update == "tool_call"]
        assert (call.title, call.status, call.kind) == ("add a=1 b=2", "completed", "other")
        assert call.raw_input == {"a": 1, "b": 2} and call.raw_output == "3"
        assert await say(connection, session_id, "Sure?") == "end_turn"
        tasks = await api.client.tasks(thread_id=session_id)
        assert len(tasks) == 2
        sessions = (await connection.list_sessions()).sessions
        assert [session.session_id for session in sessions] == [session_id]


async def test_approval_is_decided_in_the_editor(tmp_path: Path, sums: type[Sums]) -> None:
    """An approval is a permission request of the call that was shown; a no is read by the model."""
    sums.begins.set()
    editor = Editor()
    model = ScriptedModel(tool_call("buy", item="tea"), tool_call("buy", item="gold"), "Bought tea.")
    editor.decide = lambda options: [REJECT, ALLOW][len(editor.requests) == 1]
    editor.permits.set()
    async with (
        http_mesh(tmp_path, sums, script=model) as api,
        connected(editor, "sums", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        assert await say(connection, session_id, "Buy") == "end_turn"
        assert editor.text() == "Bought tea."
        first, second = editor.requests
        assert (first.raw_input, second.raw_input) == ({"item": "tea"}, {"item": "gold"})
        assert editor.tools() == [
            ("buy", "pending"),
            ("buy", "completed"),
            ("buy", "pending"),
            ("buy", "failed"),
        ]
        calls = [update.tool_call_id for update in editor.updates if update.session_update == "tool_call"]
        assert calls == [first.tool_call_id, second.tool_call_id]
        assert "Rejected in the editor" in str(model.requests[-1].messages)
        assert not await api.client.inbox()


async def test_approval_of_the_inbox_withdraws_the_request(tmp_path: Path, sums: type[Sums]) -> None:
    """The first answer counts: the editor is told whose it was, and its own is ignored."""
    sums.begins.set()
    editor, model = Editor(), ScriptedModel(tool_call("buy", item="tea"), "Bought.")
    editor.decide = lambda options: REJECT
    async with (
        http_mesh(tmp_path, sums, script=model, admin_token=ADMIN) as api,
        Client(api.url, ADMIN) as client,
    ):
        key = (await client.create_key(name="eve", roles=["approver", "viewer", "contents"])).key
        async with (
            Client(api.url, key) as eve,
            connected(editor, "sums", "--url", api.url, MESH_ADMIN_TOKEN=ADMIN) as (connection, _),
        ):
            session_id = await begun(connection, tmp_path)
            prompt = asyncio.create_task(say(connection, session_id, "Buy"))
            await editor.until(lambda: editor.requests)
            [question] = await eve.inbox()
            await eve.answer(question, {"approve": True})
            assert await prompt == "end_turn" and editor.text() == "Bought."
            assert editor.tools() == [("buy", "pending"), ("?", "in_progress"), ("buy", "completed")]
            told = next(update for update in editor.updates if update.session_update == "tool_call_update")
            assert told.content[0].content.text == "eve has approved it in the inbox"
            editor.permits.set()  # its reply is late
            model.replies("Later.")
            assert await say(connection, session_id, "And?") == "end_turn"


async def test_question_is_answered_by_the_next_prompt(tmp_path: Path) -> None:
    """A question ends a turn as text; the next prompt answers it, or the inbox before that."""
    editor = Editor()
    async with (
        http_mesh(tmp_path, Orders) as api,
        connected(editor, "orders", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        assert await say(connection, session_id, "tea") == "end_turn"
        assert editor.text().strip() == "Which size?"
        assert await say(connection, session_id, "L") == "end_turn"
        assert editor.text().endswith("ordered L")
        assert len(await api.client.tasks()) == 1

        assert await say(connection, session_id, "fields") == "end_turn"
        assert await say(connection, session_id, "large") == "end_turn"  # which does not fit
        [question] = await api.client.inbox()
        await api.client.answer(question, {"size": "M"})
        await editor.until(lambda: editor.text().endswith("ordered M"))
        assert "has answered it in the inbox" in editor.text("agent_thought_chunk")


async def test_question_is_a_form_where_the_editor_has_forms(tmp_path: Path) -> None:
    editor = Editor()
    editor.content = {"size": "S"}
    editor.permits.set()
    async with (
        http_mesh(tmp_path, Orders) as api,
        connected(editor, "orders", "--url", api.url, forms=True) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        assert await say(connection, session_id, "fields") == "end_turn"
        assert editor.requests == ["Which size?"] and editor.text() == "ordered S"
        editor.content = None  # declined: it stays in the inbox, and the next prompt answers it
        assert await say(connection, session_id, "fields") == "end_turn"
        assert editor.text().endswith("Which size?") and len(await api.client.inbox()) == 1
        assert await say(connection, session_id, '{"size": "XL"}') == "end_turn"
        assert editor.text().endswith("ordered XL")


async def test_cancel_ends_the_task(tmp_path: Path) -> None:
    editor = Editor()
    async with (
        http_mesh(tmp_path, Orders) as api,
        connected(editor, "gate", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        prompt = asyncio.create_task(say(connection, session_id, "wait"))
        async for event in api.client.stream(after_seq=0):
            if event.event_type == "task.started":
                break
        with pytest.raises(acp.RequestError, match="worked on"):
            await say(connection, session_id, "again")
        await connection.cancel(session_id=session_id)
        assert await prompt == "cancelled"
        [task] = await api.client.tasks()
        assert task.status == "cancelled"


async def test_prompt_says_once_that_its_provider_is_away(tmp_path: Path, sums: type[Sums]) -> None:
    sums.begins.set()
    away = {"base_url": "http://127.0.0.1:9", "park_seconds": 0.1, "max_park_seconds": 0.2}
    editor = Editor()
    async with (
        http_mesh(tmp_path, sums, model="http", models=away) as api,
        connected(editor, "sums", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        prompt = asyncio.create_task(say(connection, session_id, "Add."))
        waits = 0
        async for event in api.client.stream(after_seq=0):
            waits += event.event_type == "task.waiting"
            if waits == 3:
                break
        await connection.cancel(session_id=session_id)
        assert await prompt == "cancelled"
    assert editor.text("agent_thought_chunk").count("Cannot connect") == 1


async def test_failures_are_told_apart(tmp_path: Path) -> None:
    """An agent that says no refuses; one that breaks is an error with a remedy."""
    editor = Editor()
    async with (
        http_mesh(tmp_path, Orders) as api,
        connected(editor, "orders", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        assert await say(connection, session_id, "no") == "refusal"
        assert editor.text() == "We have none"
        with pytest.raises(acp.RequestError, match=r"panic.* mesh task .* shows it") as broken:
            await say(connection, session_id, "break")
        assert broken.value.code == -32603


async def test_prompt_has_files_and_resources(tmp_path: Path) -> None:
    editor = Editor()
    data = base64.b64encode(b"\x89PNG").decode()
    prompt: list[Any] = [
        acp.text_block("See"),
        acp.image_block(data, "image/png", uri="file:///a/b.png"),
        acp.audio_block(data, "audio/wav"),
        acp.resource_link_block("c.py", "file:///a/c.py"),
        acp.resource_block(
            acp.embedded_text_resource("file:///a/d.md", "```x```", mime_type="text/markdown")
        ),
        acp.resource_block(acp.embedded_blob_resource("file:///a/e.pdf", data, mime_type="application/pdf")),
    ]
    async with (
        http_mesh(tmp_path, Teller) as api,
        connected(editor, "teller", "--url", api.url) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        await connection.prompt(session_id=session_id, prompt=prompt)
        told = json.loads(editor.text())
        assert told["text"] == "See\n[c.py](file:///a/c.py)\nfile:///a/d.md\n````\n```x```\n````"
        assert told["files"] == [
            ["b.png", "image/png", data],
            ["audio-2", "audio/wav", data],
            ["e.pdf", "application/pdf", data],
        ]


async def test_person_with_least_key(tmp_path: Path, sums: type[Sums]) -> None:
    """A submitter works in threads of its own, and approvals wait for those who may give them."""
    sums.begins.set()
    editor, model = Editor(), ScriptedModel(tool_call("buy", item="tea"), "Bought.")
    async with (
        http_mesh(tmp_path, sums, script=model, admin_token=ADMIN) as api,
        Client(api.url, ADMIN) as client,
    ):
        keys = {
            name: (await client.create_key(name=name, roles=[role])).key
            for name, role in {"ann": "submitter", "bob": "submitter", "joe": "viewer"}.items()
        }

        def mine(name: str) -> Any:
            return connected(editor, "sums", "--url", api.url, MESH_ADMIN_TOKEN=keys[name])

        async with mine("ann") as (connection, _):
            session_id = await begun(connection, tmp_path)
            prompt = asyncio.create_task(say(connection, session_id, "Buy"))
            await editor.until(lambda: len(editor.tools()) == 2)
            [question] = await client.inbox()
            assert not editor.requests
            await client.answer(question, {"approve": True})
            assert await prompt == "end_turn"
            assert "waits for an answer of others" in str(editor.updates)
        async with mine("bob") as (connection, _):
            with pytest.raises(acp.RequestError, match="the role viewer"):
                await connection.load_session(session_id=session_id, cwd="/")
        async with mine("joe") as (connection, _):
            with pytest.raises(acp.RequestError, match="submit"):
                await say(connection, await begun(connection, tmp_path), "Buy")


AGENT = """
from meshwright import Agent, Capability, Run, tool


class Shop(Agent):
    agent_id = "shop"
    capabilities = (Capability("shopping"),)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.progress("begins")
        if run.task.text == "hello":
            return "Hello."
        return f"ordered {await run.ask_person('Which size?')}"
"""


def shop(folder: Path) -> dict[str, str]:
    (folder / "actors").mkdir()
    (folder / "actors/shop.py").write_text(AGENT)
    return {"MESH_AGENTS__DIR": str(folder / "actors"), "MESH_MODELS__ADAPTER": "offline"}


async def test_session_is_loaded_after_kills_of_mesh_and_editor(tmp_path: Path) -> None:
    """The task of a dead editor goes on, on the mesh that comes back; the thread is shown again."""
    environment, data = shop(tmp_path), tmp_path / "data"
    editor, later, last = Editor(), Editor(), Editor()
    async with mesh_up(data, **environment) as first:
        async with connected(editor, "shop", "--data", str(data), forms=True) as (connection, process):
            session_id = await begun(connection, tmp_path)
            assert await say(connection, session_id, "hello") == "end_turn"
            prompt = asyncio.create_task(say(connection, session_id, "tea"))
            await editor.until(lambda: editor.requests)
            process.kill()
            with pytest.raises(ConnectionError):
                await prompt
        await first.kill()
    async with mesh_up(data, **environment) as second:
        async with connected(later, "shop", "--data", str(data)) as (connection, _):
            await connection.load_session(session_id=session_id, cwd=str(tmp_path))
            assert later.text("user_message_chunk") == "hellotea"
            await later.until(lambda: later.text().endswith("Which size?"))
            assert later.text().startswith("Hello.")
            assert await say(connection, session_id, "L") == "end_turn"
            assert later.text().endswith("ordered L")
        assert len(await second.client.tasks()) == 2
        async with connected(last, "shop", "--data", str(data)) as (connection, _):
            await connection.resume_session(session_id=session_id, cwd=str(tmp_path))
            assert await say(connection, session_id, "hello") == "end_turn"
            assert last.text() == "Hello."  # nothing was shown again
            await connection.load_session(session_id=session_id, cwd=str(tmp_path))
            assert last.text("user_message_chunk") == "helloteahello"
            assert last.text().endswith("Hello.ordered LHello.")


async def test_prompt_outlives_kill_9_of_the_mesh(tmp_path: Path) -> None:
    """An editor that waits goes on waiting; its answer reaches the mesh that comes back, once."""
    environment, data, editor = shop(tmp_path), tmp_path / "data", Editor()
    editor.content = {"value": "S"}
    async with (
        mesh_up(data, **environment) as first,
        connected(editor, "shop", "--data", str(data), forms=True) as (connection, _),
    ):
        session_id = await begun(connection, tmp_path)
        prompt = asyncio.create_task(say(connection, session_id, "tea"))
        await editor.until(lambda: editor.requests)
        await first.kill()
        editor.permits.set()  # there is no mesh to answer
        async with mesh_up(data, **environment) as second:
            assert await prompt == "end_turn" and editor.text() == "ordered S"
            assert len(await second.client.tasks()) == 1


async def test_wrong_requests_are_refused_by_their_field(tmp_path: Path) -> None:
    """Each has the code of JSON-RPC and names the field; the connection goes on."""
    wrong: list[tuple[Any, int, str]] = [
        (("session/new", {"cwd": "/"}), -32600, "initialize"),
        (("initialize", {"protocolVersion": "x"}), 0, ""),
        (("initialize", []), -32602, "params"),
        (("session/fork", {}), -32601, "session/fork"),
        (("session/new", {"cwd": "here"}), -32602, "cwd"),
        (("session/new", {"cwd": "/", "mcpServers": 1}), -32602, "mcpServers"),
        (("session/new", {}), -32602, "cwd"),
        (("session/prompt", {"prompt": []}), -32602, "sessionId"),
        (("session/prompt", {"sessionId": "ghost", "prompt": []}), -32002, "ghost"),
        (("session/load", {"sessionId": "gh ost", "cwd": "/"}), -32002, "gh ost"),
        (("session/load", {"sessionId": 7, "cwd": "/"}), -32602, "sessionId"),
        (b"{nope", -32700, "JSON"),
        (b"[" * 100_000, -32700, "JSON"),
        (b"[]", -32600, "object"),
        (b'{"id": 9, "method": 3}', -32600, "method"),
        (b'"' + b"x" * 33_000_000 + b'"', -32700, "32,000,000"),
    ]
    blocks = [7, {"type": "video"}, {"type": "text"}, {"type": "image", "mimeType": "image/png", "data": "?"}]
    async with http_mesh(tmp_path, Orders) as api:
        process = await asyncio.create_subprocess_exec(
            *MESH, "acp", "orders", "--url", api.url, stdin=PIPE, stdout=PIPE, cwd=ROOT
        )
        assert process.stdin and process.stdout
        written, read = process.stdin, process.stdout

        async def ask(line: Any) -> dict[str, Any]:
            if isinstance(line, tuple):
                line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": line[0], "params": line[1]}).encode()
            written.write(b'{"method": "session/cancel", "params": 7}\n{"id": 99, "result": {}}\n')
            written.write(line + b"\n")
            await written.drain()
            return json.loads(await read.readline())

        for line, code, words in wrong:
            answer = await ask(line)
            assert answer.get("error", {"code": 0})["code"] == code, answer
            assert words in str(answer)
        session_id = (await ask(("session/new", {"cwd": "/"})))["result"]["sessionId"]
        for number, block in enumerate(blocks):
            prompt = [{"type": "text", "text": "x"}, *blocks[:0], block]
            answer = await ask(("session/prompt", {"sessionId": session_id, "prompt": prompt}))
            assert answer["error"]["code"] == -32602 and "prompt[1]" in answer["error"]["data"]["field"], (
                number
            )
        written.close()
        assert await process.wait() == 0
        assert not await api.client.tasks()


async def test_command_says_what_is_missing(tmp_path: Path) -> None:
    """Without a mesh or an agent it ends with one line and nothing on stdout."""
    (tmp_path / "empty").mkdir()
    none = await mesh("acp", "orders", "--data", str(tmp_path / "empty"))
    async with http_mesh(tmp_path, Orders) as api:
        ghost = await mesh("acp", "order", "--url", api.url)
    gone = await mesh("acp", "orders", "--url", api.url)
    for done, words in ((none, "mesh up"), (ghost, "There are echo, gate, orders"), (gone, api.url)):
        assert done.status and not done.out and words in done.err, done
        assert len(done.err.splitlines()) == 1, done.err
