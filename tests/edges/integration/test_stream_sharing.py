"""Many streams of the log: one reading for all that show the same, and limits that logins meet too."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright.core.access import Role
from meshwright.edges.http import broadcast
from meshwright.money.keys import Keys
from tests.support.http_mesh import Api, Stream, http_mesh
from tests.support.tenants import holder

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
PAGES = 40
SECONDS = aiohttp.ClientTimeout(total=60)


async def publish(api: Api, number: int, text: str = "") -> None:
    event = {"topic": "app.x", "event_type": "numbered", "payload": {"number": number, "text": text}}
    assert (await api.call("POST", "/events", json=event, headers=ADMIN))[0] == 202


async def numbers(stream: Stream, last: int) -> list[int]:
    """The numbers of the published events, up to the last one."""
    found: list[int] = []
    while last not in found:
        block = await stream.block()
        if block.get("event") == "app.x.numbered" or "numbered" in block.get("event", ""):
            found.append(json.loads(block["data"])["payload"]["number"])
    return found


async def test_streams_that_show_the_same_are_one_reading_and_miss_nothing(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api, AsyncExitStack() as stack:
        before = api.mesh.log.readers
        early = [
            await stack.enter_async_context(api.stream("/events/stream", token=TOKEN)) for _ in range(PAGES)
        ]
        reading = [asyncio.create_task(numbers(stream, 30)) for stream in early]
        await asyncio.gather(*[publish(api, number) for number in range(1, 21)])
        assert api.mesh.log.readers == before + 1
        start = await api.mesh.log.last_seq()
        for number in range(21, 26):
            await publish(api, number)
        late = await stack.enter_async_context(api.stream("/events/stream", token=TOKEN))
        resumed = await stack.enter_async_context(api.stream("/events/stream", last_id=start, token=TOKEN))
        whole = await stack.enter_async_context(api.stream("/events/stream", last_id=0, token=TOKEN))
        reading += [asyncio.create_task(numbers(stream, 30)) for stream in (late, resumed, whole)]
        for number in range(26, 31):
            await publish(api, number)
        *all_seen, of_late, of_resumed, of_whole = await asyncio.gather(*reading)
        for seen in (*all_seen, of_whole):
            assert sorted(seen[:20]) == [*range(1, 21)] and seen[20:] == [*range(21, 31)]
            assert seen == all_seen[0]
        assert of_late == [*range(26, 31)] and of_resumed == [*range(21, 31)]
        await publish(api, 31)
        assert [await numbers(stream, 31) for stream in (whole, resumed, early[0])] == [[31]] * 3
        assert api.mesh.log.readers == before + 1  # those that were behind read with the others by now


async def test_streams_of_others_see_their_own_alone(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api, AsyncExitStack() as stack:
        found: dict[str, Stream] = {}
        for name, tenant_id, roles in (
            ("reader", "acme", (Role.VIEWER, Role.CONTENTS)),
            ("viewer", "acme", (Role.VIEWER,)),
            ("stranger", "other", (Role.VIEWER, Role.CONTENTS)),
        ):
            token = (await holder(api, tenant_id, *roles))["Authorization"].split()[1]
            for number in range(3):
                stream = await stack.enter_async_context(api.stream("/events/stream", token=token))
                found[f"{name} {number}"] = stream
        sender = await holder(api, "acme", Role.SUBMITTER)
        stranger = await holder(api, "other", Role.SUBMITTER)
        body = {"topic": "app.x", "event_type": "numbered", "payload": {"text": "of-acme"}}
        for headers, text in ((sender, "of-acme"), (stranger, "of-other")):
            event = {**body, "payload": {"text": text}}
            assert (await api.call("POST", "/events", json=event, headers=headers))[0] == 202
        for name, stream in found.items():
            block = await stream.block()
            while "numbered" not in block.get("event", ""):
                block = await stream.block()
            payload = json.loads(block["data"])["payload"]
            expected: dict[str, Any] = {"text": "of-other" if "stranger" in name else "of-acme"}
            assert payload == ({} if "viewer" in name else expected), name


async def test_a_slow_reader_gets_everything_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "_MAX_KEPT_BYTES", 300_000)
    async with http_mesh(tmp_path, admin_token=TOKEN) as api, AsyncExitStack() as stack:
        slow, fast = [
            await stack.enter_async_context(api.stream("/events/stream", token=TOKEN)) for _ in range(2)
        ]
        reading = asyncio.create_task(numbers(fast, 150))
        for number in range(1, 151):
            await publish(api, number, "x" * 100_000)  # more than the kernel takes for a connection
        assert await reading == [*range(1, 151)]
        assert await numbers(slow, 150) == [*range(1, 151)]
        await publish(api, 151)
        assert await numbers(slow, 151) == await numbers(fast, 151) == [151]


async def test_streams_end_after_what_is_ready_when_the_server_stops(tmp_path: Path) -> None:
    async with AsyncExitStack() as mesh, aiohttp.ClientSession(timeout=SECONDS) as session:
        api = await mesh.enter_async_context(http_mesh(tmp_path, admin_token=TOKEN))
        streams = [await session.get(f"{api.url}/events/stream", headers=ADMIN) for _ in range(PAGES)]
        await publish(api, 1)
        stopping = asyncio.create_task(mesh.aclose())
        texts = [await response.text() for response in streams]
        await stopping
    assert all("numbered" in text for text in texts)


async def test_logins_of_a_person_count_together(tmp_path: Path) -> None:
    async with (
        http_mesh(tmp_path, admin_token=TOKEN, http={"max_streams": 3}) as api,
        AsyncExitStack() as stack,
    ):
        made = await api.mesh.get(Keys).create("ada", roles=[Role.VIEWER])
        cookies = []
        for _ in range(2):
            async with api.session.post("/session", json={"token": made.key}) as answer:
                cookies.append({"Cookie": answer.headers["Set-Cookie"].partition(";")[0]})
        session = await stack.enter_async_context(
            aiohttp.ClientSession(api.url, timeout=SECONDS, cookie_jar=aiohttp.DummyCookieJar())
        )
        streams = [await session.get("/events/stream", headers=cookies[number % 2]) for number in range(3)]
        for stream in streams:
            stack.callback(stream.close)
        assert [stream.status for stream in streams] == [200] * 3
        async with session.get("/events/stream", headers=cookies[1]) as refused:
            assert refused.status == 429 and refused.headers["Retry-After"] == "5"
            assert "http.max_streams" in (await refused.json(content_type=None))["remedy"]
        async with session.delete("/session", headers=cookies[0]) as left:
            assert left.status == 204
        texts = [await streams[number].text() for number in (0, 2)]
        assert all("stream.ended" in text for text in texts)  # and the other login goes on:
        async with session.get("/events/stream", headers=cookies[1]) as again:
            assert (again.status, streams[1].content.at_eof()) == (200, False)
