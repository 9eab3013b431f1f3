"""Push notifications of A2A, and signed cards, by the official client and its verifier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from a2a.client import A2ACardResolver
from a2a.types import a2a_pb2
from a2a.utils.errors import TaskNotFoundError
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from aiohttp import web
from google.protobuf.json_format import ParseDict
from jwt import PyJWK

from meshwright import Agent, Capability, Client, Run
from meshwright.parts.a2a.signatures import canonical_json
from tests.edges.integration.test_webhook_push import Hook
from tests.parts.integration.test_a2a import ADMIN, INVALID, UNKNOWN, Twice, message, refused, result, sent
from tests.parts.integration.test_a2a_client import AGENT, BINDINGS, client_for, state
from tests.support.http_mesh import Api, http_mesh
from tests.support.mcp_agents import ConfirmDelete
from tests.support.running_mesh import mesh_up
from tests.support.webhook_mesh import PATIENCE_SECONDS, event


class Noted(Agent):
    """Takes data whose schema has an empty text, a list and numbers."""

    agent_id = "noted"
    properties: ClassVar = {
        "note": {"type": "string", "default": ""},
        "size": {"type": "number", "minimum": 1, "multipleOf": 0.5},
    }
    capabilities = (
        Capability("noting", input_schema={"type": "object", "properties": properties, "required": []}),
    )
    remembers = False

    async def run(self, run: Run) -> str:
        return "noted"


PUSH = {"push": True, "push_networks": ["127.0.0.0/8"]}
Document = dict[str, Any]


@asynccontextmanager
async def pushing(folder: Path, **settings: Any) -> AsyncIterator[Api]:
    async with http_mesh(folder, Twice, ConfirmDelete, a2a=PUSH | settings) as api:
        yield api


async def next_update(hook: Hook) -> tuple[dict[str, str], Document]:
    """The next notification, which fits the protocol."""
    headers, body = await asyncio.wait_for(hook.came.get(), PATIENCE_SECONDS)
    document: Document = json.loads(body)
    ParseDict(document, a2a_pb2.StreamResponse())
    return headers, document


def pushed_state(document: Document) -> str:
    [update] = document.values()
    return update["status"]["state"].removeprefix("TASK_STATE_")


async def states_until(hook: Hook, last: str) -> list[str]:
    states = list[str]()
    while last not in states:
        states.append(pushed_state((await next_update(hook))[1]))
    return states


def with_push(request: Document, **config: Any) -> Document:
    return {**request, "configuration": {"returnImmediately": True, "taskPushNotificationConfig": config}}


async def test_updates_arrive_in_order_with_the_credentials_of_the_client(tmp_path: Path) -> None:
    async with Hook() as hook, pushing(tmp_path) as api:
        hook.answers = [web.Response(status=500)]
        secrets = {"token": "its-token", "authentication": {"scheme": "Bearer", "credentials": "its-key"}}
        asking = with_push(message("ask"), url=hook.url, **secrets)
        task = await sent(api, "twice", asking)
        seen = [await next_update(hook), await next_update(hook)]  # the first one was refused
        while pushed_state(seen[-1][1]) != "INPUT_REQUIRED":
            seen.append(await next_update(hook))
        assert (await sent(api, "twice", asking))["id"] == task["id"]
        for headers, document in seen:
            assert headers["X-A2A-Notification-Token"] == "its-token"
            assert headers["Authorization"] == "Bearer its-key"
            assert headers["Content-Type"] == "application/a2a+json"
            assert document["statusUpdate"]["taskId"] == task["id"]
        question = seen[-1][1]["statusUpdate"]["status"]["message"]["parts"][-1]["data"]["questions"][0]
        assert question["message"] == "First?"
        for number, text in enumerate(("one", "two")):
            await sent(api, "twice", message(text, f"a{number}", taskId=task["id"]))
        rest = list[Document]()
        while "task" not in (rest or [{}])[-1]:
            rest.append((await next_update(hook))[1])
        [listed] = (await result(api, "", "ListTaskPushNotificationConfigs", {"taskId": task["id"]}))[
            "configs"
        ]
        stored = b"".join(path.read_bytes() for path in (tmp_path / ".mesh").iterdir() if path.is_file())
    states = [pushed_state(document) for document in rest]
    assert states.count("INPUT_REQUIRED") == 1 and states[-1] == "COMPLETED", states
    assert rest[-1]["task"]["artifacts"][0]["parts"] == [{"text": "one two"}]
    assert hook.came.empty()
    assert listed.keys() == {"id", "taskId", "url", "authentication"}
    assert b"its-token" not in stored and b"its-key" not in stored


@pytest.mark.parametrize("binding", BINDINGS)
async def test_client_makes_reads_and_deletes_configurations(tmp_path: Path, binding: str) -> None:
    async with Hook() as hook, pushing(tmp_path) as api, client_for(f"{api.url}/a2a", binding) as client:
        task = await sent(api, "twice", message("ask"))
        config = a2a_pb2.TaskPushNotificationConfig(id="c1", task_id=task["id"], url=hook.url)
        made = await client.create_task_push_notification_config(config)
        assert (made.id, made.task_id, made.url) == ("c1", task["id"], hook.url)
        one = {"task_id": task["id"], "id": "c1"}
        found = await client.get_task_push_notification_config(
            a2a_pb2.GetTaskPushNotificationConfigRequest(**one)
        )
        assert found == made
        await client.create_task_push_notification_config(
            a2a_pb2.TaskPushNotificationConfig(id="c1", task_id=task["id"], url=f"{hook.url}/2")
        )
        of_task = a2a_pb2.ListTaskPushNotificationConfigsRequest(task_id=task["id"])
        page = await client.list_task_push_notification_configs(of_task)
        assert [(item.id, item.url) for item in page.configs] == [("c1", f"{hook.url}/2")]
        for _ in range(2):  # again it changes nothing
            await client.delete_task_push_notification_config(
                a2a_pb2.DeleteTaskPushNotificationConfigRequest(**one)
            )
        with pytest.raises(TaskNotFoundError):
            await client.get_task_push_notification_config(
                a2a_pb2.GetTaskPushNotificationConfigRequest(**one)
            )
        await result(api, "", "CancelTask", {"id": task["id"]})
        await client.create_task_push_notification_config(config)  # of a task that has ended
        _, document = await next_update(hook)
        assert pushed_state(document) == "CANCELED" and hook.came.empty()
        assert state(await client.get_task(a2a_pb2.GetTaskRequest(id=task["id"]))) == "CANCELED"


async def test_configurations_are_bounded_and_checked(tmp_path: Path) -> None:
    async with Hook() as hook, pushing(tmp_path) as api:
        task = await sent(api, "twice", message("ask"))
        wrong: list[Document] = [
            {},
            {"url": "ftp://x"},
            {"url": "https://user:word@x"},
            {"url": "https://x", "token": "a\r\nX: y"},
            {"url": "https://x", "id": "a/b"},
            {"url": "https://x", "authentication": {"scheme": "two words"}},
            {"url": "https://x", "authentication": {"credentials": "no scheme"}},
            {"url": "https://x/" + "x" * 2_000},
        ]
        for fields in wrong:
            params = {"taskId": task["id"], **fields}
            assert await refused(api, "", "CreateTaskPushNotificationConfig", params) == INVALID, fields
            assert await refused(api, "twice", "SendMessage", with_push(message("x"), **fields)) == INVALID
        for number in range(32):
            params = {"taskId": task["id"], "id": f"c{number}", "url": hook.url}
            await result(api, "", "CreateTaskPushNotificationConfig", params)
        params["id"] = "one-more"
        assert await refused(api, "", "CreateTaskPushNotificationConfig", params) == INVALID
        page = await result(api, "", "ListTaskPushNotificationConfigs", {"taskId": task["id"]})
        assert len(page["configs"]) == 32
        unfit = with_push(message("x", metadata={"skillId": "none"}), url=hook.url)
        assert await refused(api, "twice", "SendMessage", unfit) == INVALID
        for method in ("Get", "Delete"):
            params = {"taskId": "nothing", "id": "c1"}
            assert await refused(api, "", f"{method}TaskPushNotificationConfig", params) == UNKNOWN
    async with http_mesh(tmp_path / "public", a2a={"push": True}) as api:
        plain = with_push(message("x"), url="http://example.com/hook")
        assert await refused(api, "echo", "SendMessage", plain) == INVALID


async def test_updates_go_to_no_private_address(tmp_path: Path) -> None:
    async with Hook() as hook, pushing(tmp_path, push_networks=["10.0.0.0/8"]) as api:
        await sent(api, "echo", with_push(message("x"), url=hook.url))
        assert "push_networks" in (await event(api, "reply.dropped"))["payload"]["reason"]
    assert hook.came.empty()


async def test_configurations_are_of_one_caller(tmp_path: Path) -> None:
    """To another tenant the task is unknown; a viewer may have no outcome of another sent."""
    async with (
        Hook() as hook,
        http_mesh(tmp_path, Twice, admin_token=ADMIN, a2a=PUSH) as api,
        Client(api.url, ADMIN) as client,
    ):
        keys = {
            name: (await client.create_key(name=name, tenant_id=tenant, roles=roles)).key
            for name, tenant, roles in (
                ("ada", "acme", ["submitter"]),
                ("ann", "acme", ["viewer"]),
                ("bob", "other", ["submitter", "viewer", "contents", "operator"]),
            )
        }
        task = await sent(api, "twice", message("ask"), keys["ada"])
        params = {"taskId": task["id"], "id": "c", "url": hook.url}
        await result(api, "", "CreateTaskPushNotificationConfig", params, keys["ada"])
        for method in ("Create", "Get", "Delete"):
            name = f"{method}TaskPushNotificationConfig"
            assert await refused(api, "", name, params, keys["bob"]) == UNKNOWN
        forbidden = (-32000, "PERMISSION_DENIED")
        name = "CreateTaskPushNotificationConfig"
        assert await refused(api, "", name, params, keys["ann"]) == forbidden
        name = "ListTaskPushNotificationConfigs"
        of_task = {"taskId": task["id"]}
        assert (await result(api, "", name, of_task, keys["ann"]))["configs"] == []
        assert len((await result(api, "", name, of_task, keys["ada"]))["configs"]) == 1


async def test_updates_outlive_kill_9(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/orders.py").write_text(AGENT)
    environment = {
        "MESH_AGENTS__DIR": str(tmp_path / "actors"),
        "MESH_MODELS__ADAPTER": "offline",
        "MESH_A2A__PUSH": "true",
        "MESH_A2A__PUSH_NETWORKS": '["127.0.0.0/8"]',
    }
    request = with_push(message("tea"), url="")
    async with Hook() as hook:
        request["configuration"]["taskPushNotificationConfig"]["url"] = hook.url
        hook.answers = [web.Response(status=503) for _ in range(100)]
        task_id = ""
        for step in ("ask", "answer", "read"):
            async with mesh_up(tmp_path / "data", **environment) as mesh, httpx.AsyncClient() as http:
                url, headers = f"{mesh.url}/a2a/agents/orders/message:send", {"A2A-Version": "1.0"}
                if step == "ask":
                    answered = await http.post(url, json=request, headers=headers)
                    task_id = answered.json()["task"]["id"]
                    await next_update(hook)  # refused, like all that follow until the last start
                if step == "answer":
                    answer = message(data={"size": "L"}, message_id="a", taskId=task_id)
                    answered = await http.post(url, json=answer, headers=headers, timeout=120)
                    assert answered.json()["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
                if step == "read":
                    hook.answers = []
                    while not hook.came.empty():
                        hook.came.get_nowait()
                    states = await states_until(hook, "COMPLETED")
                await mesh.kill()
    assert states[-1] == "COMPLETED"


async def test_cards_are_signed(tmp_path: Path) -> None:
    """The official verifier takes them by the key set that they name, and no altered one."""
    async with http_mesh(tmp_path, Noted, ConfirmDelete, a2a={"open_cards": True}) as api:

        def find_key(key_id: str | None, url: str | None) -> PyJWK:
            assert url == f"{api.url}/a2a/jwks.json"
            [key] = [key for key in keys if key["kid"] == key_id]
            return PyJWK(key)

        keys = (await api.get("/a2a/jwks.json"))["keys"]
        verify = create_signature_verifier(find_key, ["EdDSA"])
        async with httpx.AsyncClient() as http:
            resolver = A2ACardResolver(http, f"{api.url}/a2a/agents/noted")
            card = await resolver.get_agent_card(signature_verifier=verify)
        extended = ParseDict(await result(api, "", "GetExtendedAgentCard", {}), a2a_pb2.AgentCard())
        verify(extended)
        for altered in (card, extended):
            altered.supported_interfaces[0].url = "https://evil.example.com/a2a"
            with pytest.raises(InvalidSignaturesError):
                verify(altered)
    async with http_mesh(tmp_path, a2a={"open_cards": True}) as api:
        assert (await api.get("/a2a/jwks.json"))["keys"] == keys


def test_canonical_json_is_that_of_rfc_8785() -> None:
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27, -0.0, 1e21, 1e20, 1e-6, 1e-7]
    text = '€$\x0f\nA\'B"\\\\"/'
    document = {"numbers": numbers, "string": text, "no": [None, False], "\U0001f600": 5, "\ufb33": 10}
    expected = (
        '{"no":[null,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27,0,1e+21,'
        '100000000000000000000,0.000001,1e-7],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/","'
        '\U0001f600":5,"\ufb33":10}'
    )
    assert canonical_json(document).decode() == expected
