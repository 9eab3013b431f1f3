"""Agents of a mesh for agents elsewhere that speak A2A 1.0, asked by HTTP in both bindings."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from a2a.types import a2a_pb2
from google.protobuf.json_format import ParseDict

from meshwright import Agent, Capability, Client, Run
from meshwright.parts.a2a.cards import IDEMPOTENT
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.mcp_agents import (
    ConfirmDelete,
    Drawer,
    FailingJob,
    MultiInput,
    ProtocolErrorJob,
    SlowCompute,
    WithHeader,
)

ADMIN = "admin-token-of-the-tests-0123456789"
Document = dict[str, Any]
RESULTS: dict[str, Any] = {
    "SendMessage": a2a_pb2.SendMessageResponse,
    "GetTask": a2a_pb2.Task,
    "CancelTask": a2a_pb2.Task,
    "ListTasks": a2a_pb2.ListTasksResponse,
    "GetExtendedAgentCard": a2a_pb2.AgentCard,
    "CreateTaskPushNotificationConfig": a2a_pb2.TaskPushNotificationConfig,
    "ListTaskPushNotificationConfigs": a2a_pb2.ListTaskPushNotificationConfigsResponse,
}
INVALID, UNKNOWN, UNSUPPORTED = (
    (-32602, "INVALID_PARAMS"),
    (-32001, "TASK_NOT_FOUND"),
    (-32004, "UNSUPPORTED_OPERATION"),
)


class Twice(Agent):
    """Asks two things, one after another."""

    agent_id = "twice"
    capabilities = (Capability("asking-twice"),)
    remembers = False

    async def run(self, run: Run) -> str:
        first = await run.ask_person("First?")
        return f"{first} {await run.ask_person('Second?')}"


class Chatty(Agent):
    """Repeats its payload."""

    agent_id = "chatty"
    capabilities = (Capability("chatting"),)
    remembers = False

    async def run(self, run: Run) -> dict[str, Any]:
        return {"text": "done", "payload": run.task.payload}


class Writer(Agent):
    """Writes, once it is told to."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    prompt_text = "You write."

    async def run(self, run: Run) -> Any:
        await run.ask_person("Begin?")
        await run.title("A title")
        await run.progress("half done")
        return await super().run(run)


AGENTS = (Twice, Chatty, Writer, ConfirmDelete, Drawer, FailingJob, MultiInput, ProtocolErrorJob, WithHeader)


def headers(token: str = "", version: str = "1.0") -> dict[str, str]:
    return {"A2A-Version": version} | ({"Authorization": f"Bearer {token}"} if token else {})


def message(text: str = "", message_id: str = "m", *, data: Any = None, **fields: Any) -> Document:
    parts = ([{"text": text}] if text else []) + ([] if data is None else [{"data": data}])
    return {"message": {"messageId": message_id, "role": "ROLE_USER", "parts": parts, **fields}}


def to_agent(agent: str) -> str:
    return f"/a2a/agents/{agent}" if agent else "/a2a"


async def call(api: Api, agent: str, method: str, params: Any, token: str = "") -> Document:
    """The answer to a call of JSON-RPC; a result fits the protocol, unknown fields too."""
    body = {"jsonrpc": "2.0", "id": "c1", "method": method, "params": params}
    async with api.session.post(to_agent(agent), json=body, headers=headers(token)) as response:
        assert response.content_type == "application/json", await response.text()
        document: Document = await response.json()
    assert (document["jsonrpc"], document["id"]) == ("2.0", "c1")
    if "result" in document:
        ParseDict(document["result"], RESULTS[method]())
    return document


async def result(api: Api, agent: str, method: str, params: Any, token: str = "") -> Document:
    document = await call(api, agent, method, params, token)
    assert "result" in document, document
    return document["result"]


async def sent(api: Api, agent: str, params: Document, token: str = "") -> Document:
    """The task of a message."""
    return (await result(api, agent, "SendMessage", params, token))["task"]


async def refused(api: Api, agent: str, method: str, params: Any, token: str = "") -> tuple[int, str]:
    """Code and reason of the error by which a call is refused."""
    document = await call(api, agent, method, params, token)
    return code(document["error"])


def code(error: Document) -> tuple[int, str]:
    [info] = [item for item in error["data"] if item["@type"].endswith("google.rpc.ErrorInfo")]
    assert info["domain"] == "a2a-protocol.org" and error["message"]
    return error["code"], info["reason"]


def state(task: Document) -> str:
    return task["status"]["state"].removeprefix("TASK_STATE_")


def answer(task: Document) -> Any:
    [artifact] = task["artifacts"]
    return artifact["parts"][0].get("text")


def asked(task: Document) -> list[Document]:
    """The questions of a task."""
    assert state(task) == "INPUT_REQUIRED", task
    return task["status"]["message"]["parts"][-1]["data"]["questions"]


@asynccontextmanager
async def stream(
    api: Api, agent: str, method: str, params: Any, token: str = ""
) -> AsyncIterator[AsyncIterator[Document]]:
    """The updates of a stream as they come."""
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    timeout = aiohttp.ClientTimeout(total=120)
    async with api.session.post(
        to_agent(agent), json=body, headers=headers(token), timeout=timeout
    ) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream"), await response.text()
        yield read(response)


async def read(response: aiohttp.ClientResponse) -> AsyncIterator[Document]:
    async for line in response.content:
        if line.startswith(b"data:"):
            document = json.loads(line[5:])
            assert (document["jsonrpc"], document["id"]) == ("2.0", 7)
            if "result" in document:
                ParseDict(document["result"], a2a_pb2.StreamResponse())
            yield document.get("result") or document["error"]


async def post(session: aiohttp.ClientSession, url: str, body: Document, token: str) -> tuple[int, Document]:
    async with session.post(url, json=body, headers=headers(token)) as response:
        return response.status, await response.json()


def kinds(updates: list[Document]) -> list[str]:
    return [next(iter(update)) for update in updates]


def states(updates: list[Document]) -> list[str]:
    statuses = [update.get("task") or update.get("statusUpdate") for update in updates]
    return [state(status) for status in statuses if status]


async def test_card_has_agents_and_skills(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS, a2a={"agents": ["[!g]*"]}) as api:
        mesh = await api.get("/.well-known/agent-card.json")
        ParseDict(mesh, a2a_pb2.AgentCard())
        assert {item["protocolBinding"] for item in mesh["supportedInterfaces"]} == {"JSONRPC", "HTTP+JSON"}
        assert {item["url"] for item in mesh["supportedInterfaces"]} == {f"{api.url}/a2a"}
        skills = {skill["id"]: skill for skill in mesh["skills"]}
        assert skills["echoing"]["tags"] == ["echo"] and "Says it again" in skills["echoing"]["description"]
        assert "waiting" not in skills
        assert [one["uri"] for one in mesh["capabilities"]["extensions"]] == [IDEMPOTENT]
        agent = await api.get("/a2a/agents/with_header/.well-known/agent-card.json")
        assert [skill["id"] for skill in agent["skills"]] == ["routing"]
        assert agent["skills"][0]["inputModes"] == ["application/json"]
        assert agent["supportedInterfaces"][0]["url"] == f"{api.url}/a2a/agents/with_header"
        extended = await result(api, "with_header", "GetExtendedAgentCard", {})
        [_, extension] = extended["capabilities"]["extensions"]
        assert extension["params"]["routing"]["required"] == ["region"]
        for unknown in ("gate", "nobody", "event-logger"):
            status, _ = await api.call("GET", f"/a2a/agents/{unknown}/.well-known/agent-card.json")
            assert status == 404
            assert await refused(api, unknown, "SendMessage", message("hi")) == INVALID
        async with api.session.get("/.well-known/agent-card.json") as response:
            tag = response.headers["ETag"]
        async with api.session.get("/.well-known/agent-card.json", headers={"If-None-Match": tag}) as again:
            assert again.status == 304


async def test_message_goes_to_the_skill_or_agent_it_names(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS, a2a={"default_agent": "echo"}) as api:
        task = await sent(api, "", message("hi"))
        assert (state(task), answer(task)) == ("COMPLETED", "you said: hi")
        assert task["history"][0]["parts"] == [{"text": "hi"}]
        named = await sent(api, "", message("hi", metadata={"skillId": "chatting"}, contextId="ctx-1"))
        assert named["contextId"] == "ctx-1" and answer(named) == "done"
        file = {"raw": "aGk=", "filename": "a.txt", "mediaType": "text/plain"}
        mixed = message("two", "m2", data={"tone": "kind", "numbers": [2.0, {"half": 0.5}]})
        mixed["message"]["parts"] += [{"text": "lines"}, file]
        task = await sent(api, "chatty", mixed)
        numbers = [2, {"half": 0.5}]
        payload = {"text": "two\nlines", "tone": "kind", "numbers": numbers}
        files = [{"name": "a.txt", "media_type": "text/plain", "data": "aGk="}]
        assert task["artifacts"][0]["parts"][1]["data"]["payload"] == {**payload, "files": files}
        assert task["history"][0]["parts"] == [
            {"text": "two\nlines"},
            file,
            {"data": {"tone": "kind", "numbers": numbers}},
        ]
        assert isinstance(task["history"][0]["parts"][2]["data"]["numbers"][0], int)
        drawn = await sent(api, "drawer", message("draw"))
        link = drawn["artifacts"][0]["parts"][1]
        assert (link["filename"], link["mediaType"]) == ("chart.txt", "text/plain")
        async with api.session.get(link["url"]) as response:
            assert await response.read() == b"a chart"
        assert await refused(api, "", "SendMessage", message("x", metadata={"skillId": "flying"})) == INVALID
        wrong = await refused(api, "with_header", "SendMessage", message(data={"region": 1}))
        assert wrong == INVALID

        # Other content under the same id is another message; the same message is one task.
        again = await sent(api, "", message("hi"))
        assert len({task["id"], again["id"], (await sent(api, "", message("bye")))["id"]}) == 3
        assert again["id"] == (await sent(api, "", message("hi")))["id"]


async def test_refusal_of_an_agent_is_no_fault(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        refusal = await sent(api, "failing_job", message("do"))
        assert state(refusal) == "REJECTED"
        assert refusal["status"]["message"]["parts"] == [{"text": "the job failed"}]
        fault = await sent(api, "protocol_error_job", message("do"))
        assert state(fault) == "FAILED" and not fault.get("artifacts")
        for name, task in (("REJECTED", refusal), ("FAILED", fault)):
            listed = await result(api, "", "ListTasks", {"status": f"TASK_STATE_{name}"})
            assert [item["id"] for item in listed["tasks"]] == [task["id"]]


async def test_follow_up_answers_the_question_of_a_task(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        task = await sent(api, "twice", message("ask"))
        assert [item["message"] for item in asked(task)] == ["First?"]
        one = message("one", "a1", taskId=task["id"])
        task = await sent(api, "twice", one)
        assert [item["message"] for item in asked(task)] == ["Second?"]
        assert [item["message"] for item in asked(await sent(api, "twice", one))] == ["Second?"]
        wrong = message("x", "a2", taskId=task["id"], contextId="other")
        assert await refused(api, "twice", "SendMessage", wrong) == INVALID
        done = await sent(api, "twice", message("two", "a2", taskId=task["id"], contextId=task["contextId"]))
        assert (state(done), answer(done)) == ("COMPLETED", "one two")
        assert (
            await sent(api, "twice", message("two", "a2", taskId=task["id"], contextId=task["contextId"]))
        )["id"] == task["id"]
        late = message("three", "a3", taskId=task["id"])
        assert await refused(api, "twice", "SendMessage", late) == UNSUPPORTED

        task = await sent(api, "multi_input", message("ask"))
        first, second = asked(task)
        assert first["schema"]["properties"].keys() == {"name", "confirm"}
        for data in (
            {"name": 1},
            {first["key"]: {"name": 1}},
            {f"steps/{task['id']}/1/9/9": {"name": "Ada"}},
        ):
            await refused(api, "", "SendMessage", message(data=data, taskId=task["id"]))
        assert len(asked(await result(api, "", "GetTask", {"id": task["id"]}))) == 2
        answers = {second["key"]: {"name": "Bob"}, first["key"]: {"name": "Ada"}}
        done = await sent(api, "", message(data=answers, taskId=task["id"]))
        assert answer(done) == "Ada Bob"

        task = await sent(api, "confirm_delete", message("x"))
        assert await refused(api, "", "SendMessage", message("maybe", taskId=task["id"])) == INVALID
        assert answer(await sent(api, "", message('{"confirm": true}', taskId=task["id"]))) == "deleted"


async def test_task_is_cancelled_once(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        at_once = {**message("wait"), "configuration": {"returnImmediately": True, "historyLength": 0}}
        task = await sent(api, "gate", at_once)
        assert state(task) in ("SUBMITTED", "WORKING") and "history" not in task
        other = message("more", taskId=task["id"])
        assert await refused(api, "gate", "SendMessage", other) == UNSUPPORTED
        assert state(await result(api, "gate", "CancelTask", {"id": task["id"]})) == "CANCELED"
        refusal = await refused(api, "gate", "CancelTask", {"id": task["id"]})
        assert refusal == (-32002, "TASK_NOT_CANCELABLE")
        assert await refused(api, "gate", "CancelTask", {"id": "nothing"}) == UNKNOWN


async def test_stream_has_text_progress_and_the_end(tmp_path: Path) -> None:
    model = ScriptedModel("Once upon a time")
    async with http_mesh(tmp_path, *AGENTS, script=model) as api:
        task = await sent(api, "writer", message("a story"))
        async with stream(api, "", "SubscribeToTask", {"id": task["id"]}) as updates:
            seen = [await anext(updates)]
            await sent(api, "", message("yes", "m2", taskId=task["id"]))
            seen += [update async for update in updates]
        assert kinds(seen)[0] == "task" and states(seen)[-1] == "COMPLETED"
        pieces = [update["artifactUpdate"] for update in seen if "artifactUpdate" in update]
        assert pieces[-1]["artifact"]["parts"] == [{"text": "Once upon a time"}] and pieces[-1]["lastChunk"]
        written = [piece["artifact"]["parts"][0]["text"] for piece in pieces[:-1]]
        assert "".join(written) == "Once upon a time"
        assert [piece.get("append", False) for piece in pieces[:-1]] == [False] + [True] * (len(written) - 1)
        statuses = [update["statusUpdate"]["status"] for update in seen if "statusUpdate" in update]
        texts = [status["message"]["parts"][0]["text"] for status in statuses if "message" in status]
        assert texts == ["A title", "half done"]


async def test_stream_that_was_cut_off_is_resumed(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        async with stream(api, "gate", "SendStreamingMessage", message("wait")) as updates:
            task = (await anext(updates))["task"]
        async with (
            stream(api, "gate", "SubscribeToTask", {"id": task["id"]}) as updates,
            stream(api, "gate", "SendStreamingMessage", message("wait")) as others,
        ):
            assert (await anext(updates))["task"]["id"] == (await anext(others))["task"]["id"] == task["id"]
            api.gate.set()
            ends = [[update async for update in one] for one in (updates, others)]
        for seen in ends:
            assert states(seen)[-1] == "COMPLETED"
            assert [update["artifactUpdate"]["artifact"]["parts"] for update in seen[-2:-1]] == [
                [{"text": "opened"}]
            ]
        assert await refused(api, "gate", "SubscribeToTask", {"id": task["id"]}) == UNSUPPORTED

        # A stream of a message ends at a question, one that follows a task goes on.
        async with stream(api, "twice", "SendStreamingMessage", message("ask")) as updates:
            seen = [update async for update in updates]
        assert states(seen)[-1] == "INPUT_REQUIRED"
        task_id = seen[0]["task"]["id"]
        async with stream(api, "twice", "SubscribeToTask", {"id": task_id}) as updates:
            assert [item["message"] for item in asked((await anext(updates))["task"])] == ["First?"]
            await sent(api, "twice", message("one", "a1", taskId=task_id))
            statuses = (update["statusUpdate"] async for update in updates if "statusUpdate" in update)
            while state(status := await anext(statuses)) != "INPUT_REQUIRED":
                pass
            assert [item["message"] for item in asked(status)] == ["Second?"]
            await sent(api, "twice", message("two", "a2", taskId=task_id))
            assert [state(status) async for status in statuses][-1] == "COMPLETED"


async def test_tasks_are_listed_by_their_last_change(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, *AGENTS) as api:
        ids = [(await sent(api, "echo", message(f"{n}", contextId="ctx")))["id"] for n in range(3)]
        waiting = (await sent(api, "twice", message("ask", contextId="ctx")))["id"]
        other = (await sent(api, "echo", message("other")))["id"]

        async def listed(**fields: Any) -> tuple[list[str], Document]:
            page = await result(api, "", "ListTasks", fields)
            return [task["id"] for task in page["tasks"]], page

        names, page = await listed(contextId="ctx", pageSize=2)
        assert names == [waiting, ids[2]] and (page["pageSize"], page["totalSize"]) == (2, 4)
        assert not any("artifacts" in task or "history" in task for task in page["tasks"])
        names, page = await listed(contextId="ctx", pageSize=2, pageToken=page["nextPageToken"])
        assert (names, page["nextPageToken"]) == ([ids[1], ids[0]], "")
        names, page = await listed()
        assert names == [other, waiting, *ids[::-1]]
        times = [task["status"]["timestamp"] for task in page["tasks"]]
        assert times == sorted(times, reverse=True)
        assert (await listed(status="TASK_STATE_INPUT_REQUIRED"))[0] == [waiting]
        assert (await listed(status="TASK_STATE_COMPLETED", contextId="ctx"))[0] == ids[::-1]
        assert (await listed(status="TASK_STATE_WORKING"))[0] == []
        assert (await listed(statusTimestampAfter="2999-01-01T00:00:00Z"))[0] == []
        assert (await listed(contextId="never"))[0] == []
        _, page = await listed(contextId=other, includeArtifacts=True, historyLength=5)
        assert answer(page["tasks"][0]) == "you said: other" and page["tasks"][0]["history"]
        path = "/a2a/tasks?contextId=ctx&status=TASK_STATE_COMPLETED&pageSize=1&includeArtifacts=true"
        async with api.session.get(path, headers=headers()) as response:
            assert response.content_type == "application/a2a+json"
            assert answer((await response.json(content_type=None))["tasks"][0]) == "you said: 2"


async def test_bad_requests_are_refused_as_the_protocol_says(tmp_path: Path, seed: int) -> None:
    part = {"raw": "eA==", "mediaType": "application/x-unknown"}
    cases: tuple[tuple[str, Any, tuple[int, str]], ...] = (
        ("Fly", {}, (-32601, "METHOD_NOT_FOUND")),
        ("SendMessage", [], INVALID),
        ("SendMessage", {}, INVALID),
        ("SendMessage", message(), INVALID),
        ("SendMessage", {**message("x"), "message": {"parts": [{"text": "x"}]}}, INVALID),
        ("SendMessage", message("x", role="ROLE_AGENT"), INVALID),
        ("SendMessage", message("x", parts=[{}]), INVALID),
        ("SendMessage", message("x", parts=[{"text": "a", "url": "b"}]), INVALID),
        ("SendMessage", message("x", parts=[part]), (-32005, "CONTENT_TYPE_NOT_SUPPORTED")),
        ("SendMessage", message("x", contextId="a b"), INVALID),
        ("SendMessage", message("x", taskId="nothing"), UNKNOWN),
        ("SendMessage", message(parts=[{"text": "y" * 262_140}]), INVALID),
        (
            "SendMessage",
            {**message("x"), "configuration": {"taskPushNotificationConfig": {"url": "http://x"}}},
            (-32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ),
        ("CreateTaskPushNotificationConfig", {}, (-32003, "PUSH_NOTIFICATION_NOT_SUPPORTED")),
        ("GetTask", {}, INVALID),
        ("GetTask", {"id": "../x"}, UNKNOWN),
        ("GetTask", {"id": "x", "historyLength": -1}, INVALID),
        ("ListTasks", {"pageSize": 101}, INVALID),
        ("ListTasks", {"pageToken": "x"}, INVALID),
        ("ListTasks", {"status": "running"}, INVALID),
        ("SubscribeToTask", {"id": "nothing"}, UNKNOWN),
    )
    async with http_mesh(tmp_path, *AGENTS) as api:
        for method, params, expected in cases:
            assert await refused(api, "echo", method, params) == expected, (method, str(params)[:200])
        assert await refused(api, "", "SendMessage", message("which?")) == INVALID
        ignored = {**message("hi", later=1), "later": {"a": 1}, "configuration": {"later": True}}
        assert answer(await sent(api, "echo", ignored)) == "you said: hi"
        texts: tuple[tuple[Any, str, int], ...] = (
            (b"{nope", "1.0", -32700),
            (b"[]", "1.0", -32600),
            (b'{"jsonrpc": "1.0", "id": 1, "method": "GetTask"}', "1.0", -32600),
            (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', "1.0", -32600),
            (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}', "", -32009),
            (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}', "0.3", -32009),
            (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}', "1.1", -32009),
            (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}', "1.0.1", -32602),
        )
        for body, version, expected_code in texts:
            async with api.session.post("/a2a/", data=body, headers=headers("", version)) as response:
                document = await response.json()
                status = 400 if expected_code in (-32700, -32600) else 200
                assert (response.status, document["error"]["code"]) == (status, expected_code), body
        for body in (b"x" * 600_000, b"[" * 80 + b"]" * 80):
            async with api.session.post("/a2a", data=body, headers=headers()) as response:
                assert response.status == 413 and code((await response.json())["error"]) == INVALID
        rest: tuple[tuple[str, str, Any, int, str], ...] = (
            ("GET", "/a2a/tasks/nothing", None, 404, "TASK_NOT_FOUND"),
            ("POST", "/a2a/tasks/nothing:cancel", None, 404, "TASK_NOT_FOUND"),
            ("GET", "/a2a/tasks/nothing:subscribe", None, 404, "TASK_NOT_FOUND"),
            ("GET", "/a2a/tasks?pageSize=x", None, 400, "INVALID_PARAMS"),
            ("POST", "/a2a/agents/echo/message:send", [], 400, "INVALID_PARAMS"),
            ("POST", "/a2a/agents/echo/message:stream", {}, 400, "INVALID_PARAMS"),
            ("GET", "/a2a/tasks/x/pushNotificationConfigs", None, 400, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
            (
                "DELETE",
                "/a2a/tasks/x/pushNotificationConfigs/y",
                None,
                400,
                "PUSH_NOTIFICATION_NOT_SUPPORTED",
            ),
        )
        for verb, path, body, status, reason in rest:
            async with api.session.request(verb, path, json=body, headers=headers()) as response:
                assert response.content_type == "application/a2a+json", await response.text()
                error = (await response.json(content_type=None))["error"]
                assert (response.status, error["code"]) == (status, status), path
                assert error["details"][0]["reason"] == reason and error["status"].isupper()
        async with api.session.get("/a2a/tasks") as response:
            assert (await response.json(content_type=None))["error"]["details"][0][
                "reason"
            ] == "VERSION_NOT_SUPPORTED"
        await send_at_random(api, random.Random(seed))
        assert answer(await sent(api, "echo", message("last"))) == "you said: last"


async def send_at_random(api: Api, chance: random.Random) -> None:
    """Send requests with fields of any kind; the answers may be anything but a fault of the server."""
    values: list[Any] = [
        *(None, True, -1, 2**80, 1.5, "", "x", "\ud800", [], {}, [[]], [{}], {"a": [{}]}, "TASK_STATE_FAILED")
    ]
    fields = ["id", "message", "configuration", "metadata", "pageSize", "pageToken", "status", "contextId"]
    item_fields = [
        "messageId",
        "role",
        "parts",
        "contextId",
        "taskId",
        "metadata",
        "text",
        "raw",
        "mediaType",
    ]
    methods = ["SendMessage", "GetTask", "ListTasks", "CancelTask", "SubscribeToTask", "GetExtendedAgentCard"]

    async def send() -> None:
        params: Any = {name: chance.choice(values) for name in chance.sample(fields, chance.randrange(5))}
        if chance.random() < 0.7:
            item = {name: chance.choice([*values, "ROLE_USER"]) for name in item_fields}
            params["message"] = {**message("x")["message"], **dict(chance.sample([*item.items()], 3))}
            if chance.random() < 0.5:
                params["message"]["parts"] = [item]
        body = {
            "jsonrpc": "2.0",
            "id": chance.choice(values),
            "method": chance.choice(methods),
            "params": params,
        }
        path = chance.choice(["/a2a/agents/echo", "/a2a/agents/echo/message:send", "/a2a"])
        body = body if path != "/a2a/agents/echo/message:send" else params
        async with api.session.post(path, data=json.dumps(body), headers=headers()) as response:
            await response.read()
            assert response.status < 500, (response.status, body)

    for _ in range(10):
        await asyncio.gather(*(send() for _ in range(10)))


async def test_roles_and_tenants_bound_what_a_key_does(tmp_path: Path) -> None:
    """Tasks of another tenant, and of others for a submitter, are as unknown as any."""
    tenants = {"small": {"tasks_per_minute": 1}}
    async with (
        http_mesh(tmp_path, *AGENTS, admin_token=ADMIN, tenants=tenants, http={"max_streams": 1}) as api,
        Client(api.url, ADMIN) as client,
    ):
        keys = {
            name: (await client.create_key(name=name, tenant_id=tenant, roles=roles)).key
            for name, tenant, roles in (
                ("ada", "acme", ["submitter"]),
                ("eve", "acme", ["submitter"]),
                ("ann", "acme", ["viewer"]),
                ("bob", "other", ["submitter", "viewer", "contents", "operator", "approver"]),
                ("tim", "small", ["submitter"]),
            )
        }
        for path in ("/.well-known/agent-card.json", "/a2a/agents/echo/.well-known/agent-card.json"):
            async with api.session.get(path) as response:
                assert response.status == 401
        task = await sent(api, "confirm_delete", message("secret words"), keys["ada"])
        yes = message(data={"confirm": True}, taskId=task["id"])
        for name in ("eve", "bob"):
            for method, params in (
                ("GetTask", {"id": task["id"]}),
                ("CancelTask", {"id": task["id"]}),
                ("SubscribeToTask", {"id": task["id"]}),
                ("SendMessage", yes),
            ):
                assert await refused(api, "", method, params, keys[name]) == UNKNOWN, (name, method)
            assert (await result(api, "", "ListTasks", {}, keys[name]))["totalSize"] == 0
            other = await sent(api, "confirm_delete", message("secret words"), keys[name])
            assert other["id"] != task["id"]
            await result(api, "", "CancelTask", {"id": other["id"]}, keys[name])
        forbidden = (-32000, "PERMISSION_DENIED")
        assert await refused(api, "echo", "SendMessage", message("hi"), keys["ann"]) == forbidden
        assert await refused(api, "", "CancelTask", {"id": task["id"]}, keys["ann"]) == forbidden
        assert await refused(api, "", "SendMessage", yes, keys["ann"]) == UNSUPPORTED
        seen = await result(api, "", "GetTask", {"id": task["id"]}, keys["ann"])
        assert state(seen) == "WORKING" and "secret" not in str(seen)
        assert len((await result(api, "", "ListTasks", {}, keys["ann"]))["tasks"]) == 2  # ada's and eve's
        assert answer(await sent(api, "", yes, keys["ada"])) == "deleted"

        assert answer(await sent(api, "echo", message("1"), keys["tim"])) == "you said: 1"
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": message("2")}
        async with api.session.post("/a2a/agents/echo", json=body, headers=headers(keys["tim"])) as response:
            assert response.status == 429 and response.headers["Retry-After"]
            assert code((await response.json())["error"]) == (-32000, "RESOURCE_EXHAUSTED")

        # One stream is all that a caller may have; it ends with its key.
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": message("wait")}
        async with stream(api, "gate", "SendStreamingMessage", message("wait"), keys["ada"]) as updates:
            assert "task" in await anext(updates)
            async with api.session.post(
                "/a2a/agents/gate", json=body, headers=headers(keys["ada"])
            ) as second:
                assert second.status == 429
            [key] = [key for key in await client.keys() if key.agent_id == "ada"]
            await client.revoke_key(key.key_id)
            rest = [update async for update in updates]
        assert code(rest[-1]) == (-32000, "UNAUTHENTICATED")


async def test_cards_are_open_and_streams_end_when_the_mesh_stops(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with (
            http_mesh(
                tmp_path, ConfirmDelete, SlowCompute, admin_token=ADMIN, a2a={"open_cards": True}
            ) as api,
            Client(api.url, ADMIN) as client,
        ):
            await client.create_key(name="ada", roles=["submitter"])
            card = await api.get("/a2a/agents/echo/.well-known/agent-card.json")
            assert card["name"] and (await api.get("/.well-known/agent-card.json"))["skills"]
            task = await sent(api, "confirm_delete", message("x"), ADMIN)
            body = {"jsonrpc": "2.0", "id": 7, "method": "SubscribeToTask", "params": {"id": task["id"]}}
            async with api.session.post("/a2a", json=body, headers=headers()) as response:
                assert response.status == 401
            left = await session.post(f"{api.url}/a2a", json=body, headers=headers(ADMIN))
            updates = read(left)
            assert "task" in await anext(updates)
            body = {**body, "method": "SendMessage", "params": message(data={"seconds": 600})}
            url = f"{api.url}/a2a/agents/slow_compute"
            waiting = asyncio.ensure_future(post(session, url, body, ADMIN))
            async with Client(api.url, ADMIN) as client:
                while not await client.tasks(agent_id="slow_compute", status="waiting"):
                    await asyncio.sleep(0.05)
        status, document = await waiting
        assert (status, code(document["error"])) == (503, (-32000, "UNAVAILABLE"))
        rest = [update async for update in updates]
        assert code(rest[-1]) == (-32000, "UNAVAILABLE")


async def test_part_that_is_off_has_no_route(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, a2a={"enabled": False}) as api:
        assert (await api.call("GET", "/.well-known/agent-card.json"))[0] == 404
        assert (await api.call("POST", "/a2a", json={}))[0] == 404
