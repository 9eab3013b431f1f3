"""Outcomes that are pushed to URLs over real sockets: signed, tried again, and to no private address."""

import asyncio
import base64
import hmac
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.journeys.integration.test_http_exposed import write_certificate
from tests.support.http_mesh import Api, http_mesh
from tests.support.webhook_mesh import PATIENCE_SECONDS, WHSEC, event, events

LOCAL = {"push_networks": ["127.0.0.0/8"]}


def signature(headers: dict[str, str], body: bytes, key: bytes = b"k" * 32) -> str:
    signed = b"%s.%s.%s" % (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body)
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


class Hook:
    """Somebody's URL: what came, and what it answers."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.came: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
        self.answers: list[web.Response] = []
        self.url = ""
        self.answering = asyncio.Event()
        """Until then /hang does not answer."""

    async def __aenter__(self) -> "Hook":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        scheme = "http" if self.tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.answering.set()
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        if request.path.startswith("/hang"):
            await self.answering.wait()
        self.came.put_nowait((dict(request.headers), await request.read()))
        return self.answers.pop(0) if self.answers else web.Response()

    async def next(self) -> tuple[dict[str, str], Any]:
        headers, body = await asyncio.wait_for(self.came.get(), PATIENCE_SECONDS)
        assert headers["webhook-signature"] == signature(headers, body)
        assert abs(datetime.now(UTC).timestamp() - int(headers["webhook-timestamp"])) < 60
        return headers, json.loads(body)


def named(api: Api, hook: Hook, headers: Any = None, **request: Any) -> Any:
    body = {"agent_id": "echo", "payload": {"text": "hi"}, "notify": {"url": hook.url, "secret": WHSEC}}
    return api.call("POST", "/tasks", json=body | request, headers=headers)


@asynccontextmanager
async def notifying(folder: Path, **settings: Any) -> AsyncIterator[Api]:
    async with http_mesh(folder, webhooks={"notify": True} | LOCAL | settings) as api:
        yield api


async def test_outcome_is_pushed_signed_until_it_is_taken(tmp_path: Path) -> None:
    async with Hook() as hook, notifying(tmp_path) as api:
        hook.answers = [web.Response(status=500), web.Response(status=302, headers={"Location": hook.url})]
        status, receipt = await named(api, hook)
        tries = [await hook.next() for _ in range(3)]
        stored = b"".join(path.read_bytes() for path in (tmp_path / ".mesh").iterdir() if path.is_file())
    assert status == 202
    headers, document = tries[-1]
    assert (document["type"], document["data"]["task_id"]) == ("task.succeeded", receipt["task_id"])
    assert document["data"]["result"] == {"text": "you said: hi"}
    assert len({one["webhook-id"] for one, _ in tries}) == 1
    assert headers["Content-Type"] == "application/json"
    assert WHSEC.encode() not in stored


async def test_outcome_of_an_ended_task_is_pushed_to_a_late_url(tmp_path: Path) -> None:
    async with Hook() as hook, notifying(tmp_path) as api:
        _, receipt = await named(api, hook, task_id="t1")
        first, _ = await hook.next()
        again = await named(api, hook, task_id="t1")
        second, _ = await hook.next()
    assert (again[0], again[1]["task_id"]) == (202, receipt["task_id"])
    assert first["webhook-id"] == second["webhook-id"]


async def test_standing_targets_get_the_outcomes_that_they_want(tmp_path: Path) -> None:
    async with Hook() as hook:
        wants = {"url": hook.url, "secret": WHSEC, "events": ["task.failed"]}
        async with notifying(tmp_path, push=[wants]) as api:
            await api.finished(agent_id="echo")
            task_id = await api.finished(agent_id="echo", payload={"fail": True})
            _, document = await hook.next()
        assert hook.came.empty()
    assert (document["type"], document["data"]["task_id"]) == ("task.failed", task_id)


async def test_urls_that_hang_hold_up_no_other_tenant(tmp_path: Path) -> None:
    async with Hook() as hook:
        hangs = {"url": hook.url.replace("/hook", "/hang"), "secret": WHSEC, "events": ["*"]}
        async with notifying(tmp_path, push=[hangs]) as api:
            async with asyncio.TaskGroup() as group:
                for _ in range(80):  # more than are on their way at once
                    group.create_task(api.finished(agent_id="echo"))
            assert (await named(api, hook, headers={"Mesh-Tenant": "acme"}))[0] == 202
            await hook.next()
            delayed = await events(api, event_type="reply.delayed")
        hook.answering.set()
        async with notifying(tmp_path, push=[hangs]):  # after a restart they get what is theirs
            came: set[str] = set()
            while len(came) < 80:
                came.add((await hook.next())[0]["webhook-id"])
    reasons = {one["payload"]["reason"] for one in delayed}
    assert reasons == {"16 earlier ones of tenant default are still on their way"}


async def test_push_goes_to_no_server_whose_certificate_is_not_trusted(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path, "127.0.0.1"))
    async with Hook(context) as hook, notifying(tmp_path) as api:
        assert (await named(api, hook))[0] == 202
        delayed = await event(api, "reply.delayed")
    assert "Certificate" in delayed["payload"]["reason"]
    assert hook.came.empty()


async def test_push_goes_to_no_private_address(tmp_path: Path) -> None:
    async with (
        Hook() as hook,
        http_mesh(tmp_path, webhooks={"notify": True} | {"push_networks": ["10.0.0.0/8"]}) as api,
    ):
        assert (await named(api, hook))[0] == 202
        dropped = await event(api, "reply.dropped")
        by_name = hook.url.replace("127.0.0.1", "localhost").replace("http:", "https:")
        other = await named(api, hook, notify={"url": by_name, "secret": WHSEC}, task_id="t2")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await events(api, event_type="reply.dropped", task_id="t2"):
                await asyncio.sleep(0.01)
    assert other[0] == 202
    assert "push_networks" in dropped["payload"]["reason"]
    assert hook.came.empty()


@pytest.mark.parametrize(
    ("settings", "notify", "field"),
    [
        ({}, {"url": "https://example.com", "secret": WHSEC}, "notify"),
        ({"notify": True}, {"url": "http://example.com", "secret": WHSEC}, "notify.url"),
        ({"notify": True}, {"url": "https://user:pw@example.com", "secret": WHSEC}, "notify.url"),
        ({"notify": True}, {"url": "file:///etc/passwd", "secret": WHSEC}, "notify.url"),
        ({"notify": True}, {"url": "https://[", "secret": WHSEC}, "notify.url"),
        ({"notify": True}, {"url": "https://example.com", "secret": "short"}, "notify.secret"),
        ({"notify": True}, {"url": "https://example.com"}, "notify.secret"),
    ],
)
async def test_url_that_cannot_be_notified_is_refused(
    tmp_path: Path, settings: dict[str, Any], notify: dict[str, Any], field: str
) -> None:
    async with http_mesh(tmp_path, webhooks=settings) as api:
        status, problem = await api.call("POST", "/tasks", json={"agent_id": "echo", "notify": notify})
        assert (status, problem["field"]) == (422, field)
        assert not await events(api, event_type="task.accepted")


async def test_outcome_is_signed_with_the_previous_secret_too(tmp_path: Path) -> None:
    old = f"whsec_{base64.b64encode(b'o' * 32).decode()}"
    async with Hook() as hook:
        target = {"url": hook.url, "secret": WHSEC, "previous_secret": old}
        async with notifying(tmp_path, push=[target]) as api:
            await api.finished(agent_id="echo")
            headers, body = await asyncio.wait_for(hook.came.get(), PATIENCE_SECONDS)
    signed = headers["webhook-signature"].split()
    assert signed == [signature(headers, body, key) for key in (b"k" * 32, b"o" * 32)]
