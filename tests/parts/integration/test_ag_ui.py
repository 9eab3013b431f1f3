"""Agents of a mesh behind user interfaces that speak AG-UI, asked by HTTP as its clients do."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from meshwright import Agent, Capability, Client, Run, tool
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import Api, http_mesh
from tests.support.mcp_agents import ConfirmDelete, FailingJob, MultiInput, ProtocolErrorJob

ADMIN = "admin-token-of-the-tests-0123456789"
Frame = dict[str, Any]


class Sums(Agent):
    """Adds, writes as it thinks, and buys where a person lets it."""

    agent_id = "sums"
    capabilities = (Capability("adding"),)
    prompt_text = "You add."

    @tool
    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tool(needs_approval=True)
    async def buy(self, item: str, count: int = 1) -> str:
        """Buy something."""
        return f"bought {count} {item}"


class Chatty(Agent):
    """Says what it does, under a title."""

    agent_id = "chatty"
    capabilities = (Capability("chatting"),)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.title("A title")
        await run.state("looking")
        await run.progress("half done")
        return json.dumps(run.task.payload, sort_keys=True)


AGENTS = (Sums, Chatty, ConfirmDelete, FailingJob, MultiInput, ProtocolErrorJob)


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def opened(
    api: Api, agent: str, token: str = "", **fields: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response to a run of the thread `t`, whose client reads as it comes."""
    body: Any = {"threadId": "t", "messages": [], "tools": [], "context": [], "state": {}, **fields}
    timeout = aiohttp.ClientTimeout(total=120)
    async with api.session.post(
        f"/ag-ui/{agent}", json=body, headers=headers(token), timeout=timeout
    ) as response:
        yield response


async def run(
    api: Api, agent: str, run_id: str, text: str = "", token: str = "", **fields: Any
) -> list[Frame]:
    """The events of a run to its end."""
    messages = [{"id": f"m-{run_id}", "role": "user", "content": text}] if text else []
    fields = {"messages": messages, "runId": run_id, **fields}
    async with opened(api, agent, token, **fields) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream"), await response.text()
        frames = [frame async for frame in read(response)]
    assert frames[0] == {"type": "RUN_STARTED", **names(frames[0]), "protocolVersion": "1.0"}
    assert frames[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR")
    return frames


async def read(response: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    async for line in response.content:
        if line.startswith(b"data:"):
            yield json.loads(line[5:])


def names(frame: Frame) -> Frame:
    return {name: frame[name] for name in ("threadId", "runId")}


def types(frames: list[Frame]) -> list[str]:
    return [frame["type"] for frame in frames]


def said(frames: list[Frame]) -> dict[str, str]:
    """The texts of messages by their ids; each begins once and ends once."""
    texts: dict[str, str] = {}
    for frame in frames:
        match frame["type"]:
            case "TEXT_MESSAGE_START":
                assert frame["messageId"] not in texts
                texts[frame["messageId"]] = ""
            case "TEXT_MESSAGE_CONTENT":
                texts[frame["messageId"]] += frame["delta"]
    assert types(frames).count("TEXT_MESSAGE_END") == len(texts)
    return texts


def interrupts(frames: list[Frame]) -> list[Frame]:
    assert frames[-1]["outcome"]["type"] == "interrupt", frames[-1]
    return frames[-1]["outcome"]["interrupts"]


def resume(interrupt: Frame, payload: Any = None, status: str = "resolved") -> Frame:
    return {"interruptId": interrupt["id"], "status": status, "payload": payload}


def say(content: Any) -> list[Frame]:
    return [{"id": "m", "role": "user", "content": content}]


def problem(frames: list[Frame]) -> tuple[str, str]:
    return frames[-1]["code"], frames[-1]["message"]


async def refused(api: Api, agent: str, token: str = "", **fields: Any) -> list[Any]:
    """Status, code and field of the problem by which a run is refused."""
    async with opened(api, agent, token, **fields) as response:
        assert response.content_type == "application/problem+json", await response.text()
        document = await response.json(content_type=None)
        return [response.status, document["code"], document.get("field")]


async def test_run_streams_text_tools_and_state(tmp_path: Path) -> None:
    model = ScriptedModel(tool_call("add", a=1, b=2), "It is 3.", "Still 3.")
    async with http_mesh(tmp_path, *AGENTS, script=model) as api:
        frames = await run(api, "sums", "r1", "1 and 2?", tools=[{"name": "confetti"}])
        assert frames[1] == {"type": "CUSTOM", "name": "unsupported", "value": ["tools"]}
        [start, args, _, result] = [frame for frame in frames if frame["type"].startswith("TOOL_CALL")]
        assert start["toolCallName"] == "add" and json.loads(args["delta"]) == {"a": 1, "b": 2}
        assert start["toolCallId"] == args["toolCallId"] == result["toolCallId"] and result["content"] == "3"
        assert [*said(frames).values()] == ["It is 3."]
        assert (frames[-1]["outcome"], frames[-1]["result"]) == ({"type": "success"}, {"text": "It is 3."})
        state = frames[-2]["snapshot"]
        assert (state["status"], (await api.get(f"/tasks/{state['task_id']}"))["thread_id"]) == (
            "succeeded",
            "t",
        )

        follow_up = await run(api, "sums", "r2", "Sure?")
        assert "MESSAGES_SNAPSHOT" not in types(follow_up) and [*said(follow_up).values()] == ["Still 3."]
        texts = [message.content for message in model.requests[-1].messages]
        assert texts == ["You add.", "1 and 2?", "It is 3.", "Sure?"]

        again = await run(api, "sums", "r2", "Sure?")  # by a client that was cut off, or another one
        shown = [(message["role"], message["content"]) for message in again[1]["messages"]]
        assert shown == [("user", "1 and 2?"), ("assistant", "It is 3."), ("user", "Sure?")]
        assert [*said(again).values()] == ["Still 3."] and again[-1] == follow_up[-1]
        looked = await run(api, "sums", "r3")
        assert looked[1] == again[1] and said(looked) == said(again)
        assert len(model.requests) == 3


async def test_message_with_its_context_is_the_payload(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        context = [{"description": "page", "value": "/cart"}]
        parts = [{"type": "text", "text": "buy"}, {"type": "text", "text": "tea"}]
        messages = [
            {"id": "m", "role": "user", "content": parts},
            {"id": "s", "role": "system", "content": "!"},
        ]
        fields = {"forwardedProps": {"tone": "kind", "text": "no"}, "context": context, "state": {"a": 1}}
        frames = await run(api, "chatty", "r1", threadId="thread: 1/2 \u00e9", messages=messages, **fields)
        assert names(frames[0]) == names(frames[-1]) == {"threadId": "thread: 1/2 \u00e9", "runId": "r1"}
        payload = {"text": "buy\ntea", "tone": "kind", "context": context}
        assert json.loads(frames[-1]["result"]["text"]) == payload
        assert {"type": "CUSTOM", "name": "progress", "value": "half done"} in frames
        deltas = [frame["delta"][0] for frame in frames if frame["type"] == "STATE_DELTA"]
        assert [(delta["path"], delta["value"]) for delta in deltas] == [
            ("/title", "A title"),
            ("/state", "looking"),
        ]
        seen = await run(api, "chatty", "r2", threadId="thread: 1/2 \u00e9")
        assert seen[1]["messages"][0]["content"] == "buy\ntea"
        other = await run(api, "chatty", "r3", threadId="other")
        assert types(other) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]


async def test_task_that_fails_ends_its_run(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        assert problem(await run(api, "failing_job", "r1", "do")) == ("ToolFailed", "the job failed")
        code, _ = problem(await run(api, "protocol_error_job", "r1", "do"))
        assert code == "RuntimeError"
        async with opened(
            api, "gate", runId="r1", messages=[{"role": "user", "content": "wait"}]
        ) as response:
            frames = []
            async for frame in read(response):
                frames.append(frame)
                if frame["type"] == "STATE_SNAPSHOT" and frame["snapshot"]["status"] != "cancelled":
                    await api.client.cancel(frame["snapshot"]["task_id"])
        assert frames[-1] == {
            "type": "RUN_FINISHED",
            "threadId": "t",
            "runId": "r1",
            "outcome": {"type": "cancelled"},
        }


async def test_interrupts_are_answered_by_any_client(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        asked = interrupts(await run(api, "multi_input", "r1", "ask"))
        assert [(item["reason"], item["message"]) for item in asked] == [
            ("input_required", "First?"),
            ("input_required", "Second?"),
        ]
        assert asked[0]["responseSchema"]["properties"].keys() == {"name", "confirm"}
        first, second = asked
        for text, answers in (
            ("more", None),
            ("", [resume(first, {"name": "Ada"})]),
            ("", [resume(first), resume(second), {**resume(first), "interruptId": "x"}]),
            ("", [resume(first, {"name": 1}), resume(second, {"name": "Bob"})]),
        ):
            frames = await run(api, "multi_input", "bad", text, resume=answers or [])
            assert (types(frames), problem(frames)[0]) == (["RUN_STARTED", "RUN_ERROR"], "interrupts"), frames
        again = await run(api, "multi_input", "r1", "ask")
        assert interrupts(again) == asked and again[1]["messages"][0]["content"] == "ask"

        answers = [resume(first, {"name": "Ada"}), resume(second, {"name": "Bob"})]
        done = await run(api, "multi_input", "r2", resume=answers)
        assert done[1]["type"] == "MESSAGES_SNAPSHOT" and done[-1]["result"] == {"text": "Ada Bob"}
        assert (await run(api, "multi_input", "r2", resume=answers))[-1] == done[-1]  # its client was cut off
        frames = await run(api, "multi_input", "r3", resume=[{**answers[0], "interruptId": "steps/x/1/1/1"}])
        assert problem(frames)[0] == "interrupts"

        [asked_again] = interrupts(await run(api, "confirm_delete", "r1", "x", threadId="u"))
        frames = await run(
            api, "confirm_delete", "r2", threadId="u", resume=[resume(asked_again, status="cancelled")]
        )
        assert frames[-1]["outcome"] == {"type": "cancelled"}


async def test_call_of_a_tool_is_approved_with_other_arguments_or_denied(tmp_path: Path) -> None:
    model = ScriptedModel(
        tool_call("buy", item="tea"), "Bought.", tool_call("buy", item="tea"), "As you like."
    )
    async with http_mesh(tmp_path, *AGENTS, script=model) as api:
        frames = await run(api, "sums", "r1", "tea")
        [asked] = interrupts(frames)
        calls = [frame for frame in frames if frame["type"].startswith("TOOL_CALL")]
        assert [call["type"] for call in calls] == ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"]
        assert asked["reason"] == "tool_call" and {call["toolCallId"] for call in calls} == {
            asked["toolCallId"]
        }
        assert json.loads(calls[1]["delta"])["item"] == "tea"

        # Its client shows the call already, as `@ag-ui/client` does: in a message with the id of the call.
        call = {"id": asked["toolCallId"], "type": "function", "function": {"name": "buy", "arguments": "{}"}}
        messages = [{"id": asked["toolCallId"], "role": "assistant", "toolCalls": [call]}]
        answer = {"approved": True, "editedArgs": {"item": "tea", "count": 2}}
        frames = await run(api, "sums", "r2", messages=messages, resume=[resume(asked, answer)])
        assert not {"MESSAGES_SNAPSHOT", "TOOL_CALL_START"} & {*types(frames)}
        [result] = [frame for frame in frames if frame["type"] == "TOOL_CALL_RESULT"]
        assert (result["toolCallId"], result["content"]) == (asked["toolCallId"], "bought 2 tea")
        assert [*said(frames).values()] == ["Bought."]

        [asked] = interrupts(await run(api, "sums", "r3", "again"))
        frames = await run(api, "sums", "r4", resume=[resume(asked, status="cancelled")])
        [result] = [frame for frame in frames if frame["type"] == "TOOL_CALL_RESULT"]
        assert "denied it: Cancelled" in result["content"] and [*said(frames).values()] == ["As you like."]


async def test_client_that_leaves_finds_its_run_as_it_stands(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        message = {"messages": [{"role": "user", "content": "wait"}], "runId": "r1"}
        async with opened(api, "gate", **message) as response:
            assert (await anext(read(response)))["type"] == "RUN_STARTED"
        async with opened(api, "gate", **message) as response:
            frames = []
            async for frame in read(response):
                frames.append(frame)
                api.gate.set()
        assert types(frames)[:3] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT"]
        assert frames[-1]["result"] == {"text": "opened"}
        assert len((await api.get("/tasks", thread_id="t"))["items"]) == 1


async def test_mesh_that_stops_ends_its_runs_by_an_error(tmp_path: Path) -> None:
    """A key that ends does so too; else a client would take its run for one that succeeded."""
    async with aiohttp.ClientSession() as session:
        async with (
            http_mesh(tmp_path, ConfirmDelete, admin_token=ADMIN) as api,
            Client(api.url, ADMIN) as client,
        ):
            await run(api, "confirm_delete", "r1", "x", ADMIN)
            keys = [await client.create_key(name=name, roles=["viewer"]) for name in ("ann", "bea")]
            async with opened(api, "confirm_delete", keys[0].key, runId="r1") as response:
                revoked = await api.call("DELETE", f"/keys/{keys[0].key_id}", headers=headers(ADMIN))
                assert revoked[0] < 300
                frames = [frame async for frame in read(response)]
            assert problem(frames)[0] == "Unauthenticated" and "was revoked" in problem(frames)[1]
            body: Any = {"threadId": "t", "runId": "r1", "messages": []}
            url = f"{api.url}/ag-ui/confirm_delete"
            left = await session.post(url, json=body, headers=headers(keys[1].key))
            assert (await anext(read(left)))["type"] == "RUN_STARTED"
        assert problem([frame async for frame in read(left)])[0] == "Draining"


async def test_bad_runs_are_refused_by_problems(tmp_path: Path, seed: int) -> None:
    limits = {"models": {"max_request_bytes": 600_000}}
    async with http_mesh(tmp_path, *AGENTS, **limits, ag_ui={"agents": ["[!g]*"]}) as api:
        unknown, late = [404, "NotFound", "agent_id"], {"interruptId": "x", "status": "resolved"}
        image = {"type": "image", "source": {"type": "url", "value": "http://x"}}
        deep: Any = 1
        for _ in range(60):
            deep = [deep]
        cases: tuple[tuple[str, dict[str, Any], list[Any]], ...] = (
            ("nobody", {}, unknown),
            ("nobody", {"resume": [late]}, unknown),
            ("gate", {"messages": say("hi")}, unknown),
            ("event-logger", {"messages": say("hi")}, unknown),
            ("echo", {"runId": None}, [422, "InvalidInput", "runId"]),
            ("echo", {"threadId": 3}, [422, "InvalidInput", "threadId"]),
            ("echo", {"messages": say([image])}, [422, "InvalidInput", "messages"]),
            ("echo", {"resume": [{"status": "resolved"}]}, [422, "InvalidInput", "resume.0.interruptId"]),
            ("echo", {"state": deep}, [413, "TooLarge", "body"]),
            ("echo", {"state": "x" * 700_000}, [413, "TooLarge", "body"]),
            ("echo", {"messages": say("x" * 300_000)}, [413, "TooLarge", "payload"]),
        )
        for agent, fields, expected in cases:
            assert await refused(api, agent, **{"runId": "r", **fields}) == expected, (agent, expected)
        async with api.session.post("/ag-ui/echo", data=b"{nope") as response:
            assert response.status == 400
        await send_at_random(api, random.Random(seed))
        assert (await run(api, "echo", "last", "hi"))[-1]["result"] == {"text": "you said: hi"}


async def send_at_random(api: Api, chance: random.Random) -> None:
    """Send runs with fields of any kind; the answers may be anything but a fault of the server."""
    values: list[Any] = [
        None,
        True,
        -1,
        2**80,
        1.5,
        "",
        "x",
        "\ud800",
        "steps/a/1/1/1",
        [],
        {},
        [[]],
        [{}],
        {"a": [{}]},
    ]
    fields = ["threadId", "runId", "messages", "tools", "context", "state", "forwardedProps", "resume"]
    item_fields = ["role", "content", "id", "toolCalls", "interruptId", "status", "payload"]

    async def send() -> None:
        body: Any = {"threadId": "z", "runId": "q", "messages": []}
        body |= {name: chance.choice(values) for name in chance.sample(fields, chance.randrange(5))}
        if chance.random() < 0.5:
            item = {name: chance.choice([*values, "user", "cancelled"]) for name in item_fields}
            body[chance.choice(["messages", "resume", "context"])] = [item]
        async with api.session.post("/ag-ui/echo", data=json.dumps(body)) as response:
            await response.read()
            assert response.status < 500, (response.status, body)

    for _ in range(10):
        await asyncio.gather(*(send() for _ in range(10)))


async def test_tasks_and_streams_of_a_caller_are_limited(tmp_path: Path) -> None:
    tenants = {"acme": {"tasks_per_minute": 3}}
    async with (
        http_mesh(tmp_path, tenants=tenants, admin_token=ADMIN, http={"max_streams": 2}) as api,
        Client(api.url, ADMIN) as client,
    ):
        key = (await client.create_key(name="ada", tenant_id="acme", roles=["submitter"])).key
        async with (
            opened(api, "gate", key, runId="r1", messages=say("wait")) as first,
            opened(api, "gate", key, runId="r2", messages=say("wait")) as second,
        ):
            assert first.status == second.status == 200
            refusal = await refused(api, "gate", key, runId="r3", messages=say("wait"))
            assert refusal[:2] == [429, "Overloaded"]
            api.gate.set()
            ends = [[frame async for frame in read(response)][-1] for response in (first, second)]
        assert [end["result"] for end in ends] == [{"text": "opened"}] * 2
        refusal = await refused(api, "echo", key, runId="r4", messages=say("hi"))
        assert refusal == [429, "Overloaded", "tenant_id"]
        again = await run(api, "gate", "r3", "wait", key)  # it was taken; to see it is no task
        assert again[-1]["result"] == {"text": "opened"}


async def test_roles_and_tenants_bound_what_a_key_does(tmp_path: Path) -> None:
    """Threads of another tenant, and of others for a submitter, are as unknown as any."""
    model = ScriptedModel(tool_call("buy", item="tea"), "Bought.")
    async with (
        http_mesh(tmp_path, *AGENTS, script=model, admin_token=ADMIN) as api,
        Client(api.url, ADMIN) as client,
    ):
        keys = {
            name: (await client.create_key(name=name, tenant_id=tenant, roles=roles)).key
            for name, tenant, roles in (
                ("ada", "acme", ["submitter"]),
                ("eve", "acme", ["submitter"]),
                ("ann", "acme", ["viewer"]),
                ("amy", "acme", ["approver"]),
                ("joe", "acme", ["approver"]),
                ("bob", "other", ["submitter", "viewer", "contents", "operator", "approver"]),
            )
        }
        words = {"messages": say("secret words")}
        assert (await refused(api, "sums", runId="r1", **words))[0] == 401
        assert (await refused(api, "sums", keys["ann"], runId="r1", **words))[:2] == [403, "Forbidden"]
        [asked] = interrupts(await run(api, "confirm_delete", "r1", "secret words", keys["ada"]))
        for name in ("eve", "bob"):
            frames = await run(api, "confirm_delete", "r1", token=keys[name])
            assert types(frames) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
            assert frames[1]["messages"] == []
        answer = resume(asked, {"confirm": True})
        for name in ("eve", "bob", "ann"):
            frames = await run(api, "confirm_delete", "r2", token=keys[name], resume=[answer])
            assert problem(frames)[0] == "interrupts", name
        never = {**answer, "interruptId": "x"}
        frames = await run(api, "confirm_delete", "r2", token=keys["bob"], resume=[answer])
        unknown = await run(api, "confirm_delete", "r2", token=keys["bob"], resume=[never])
        assert problem(unknown)[1] == problem(frames)[1].replace(asked["id"], "x")
        refusal = await refused(api, "confirm_delete", keys["eve"], runId="r1", **words)
        assert refusal[:2] == [409, "IdempotencyConflict"]
        [own] = interrupts(await run(api, "confirm_delete", "r1", "our words", keys["bob"]))
        assert own["id"] != asked["id"]  # names are a tenant's own

        # A viewer sees how the run stands, without its contents, for as long as it lasts.
        async with opened(api, "confirm_delete", keys["ann"], runId="r1") as response:
            frames = []
            async for frame in read(response):
                frames.append(frame)
                if frame["type"] == "STATE_SNAPSHOT" and frame["snapshot"]["status"] == "waiting":
                    await run(api, "confirm_delete", "r2", token=keys["ada"], resume=[answer])
        assert frames[-1]["outcome"] == {"type": "success"}
        assert "secret" not in str(frames) and "deleted" not in str(frames)

        # A submitter may not decide on an approval: its run goes on until an approver has.
        fields = {"threadId": "u", "runId": "r1"}
        async with (
            Client(api.url, keys["joe"]) as joe,
            opened(api, "sums", keys["ada"], **fields, **words) as response,
        ):
            while not (waiting := await joe.inbox()):
                await asyncio.sleep(0.05)
            [asked] = interrupts(await run(api, "sums", token=keys["amy"], run_id="r1", threadId="u"))
            assert asked["id"] == waiting[0].wait_id
            answer = resume(asked, {"approve": True})
            await joe.claim(waiting[0])
            claimed = await run(api, "sums", "r2", token=keys["amy"], threadId="u", resume=[answer])
            assert problem(claimed)[0] == "interrupts" and "joe" in problem(claimed)[1]
            answer["metadata"] = {"anyway": True}
            done = await run(api, "sums", "r2", token=keys["amy"], threadId="u", resume=[answer])
            assert done[-1]["result"] == {"text": "Bought."}
            frames = [frame async for frame in read(response)]
        assert frames[-1]["result"] == {"text": "Bought."}


async def test_part_that_is_off_has_no_route(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, ag_ui={"enabled": False}) as api:
        assert (await api.call("POST", "/ag-ui/echo", json={}))[0] == 404
