"""Tools over a service that speaks JSON over HTTP, and services that are hostile, broken or away."""

import gzip
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web

from meshwright import tool
from meshwright.core.errors import ConfigError, InvalidInput, ToolFailed
from meshwright.core.settings.forms import Table
from meshwright.tools import ToolSettings
from meshwright.toolsets.observe import ObserveTools
from meshwright.toolsets.rest import RestClient, RestPart, RestService, RestTools
from tests.support.fake_services import (
    FakeService,
    Fault,
    answering,
    cut_off,
    endless,
    hung_up,
    redirecting,
    silent,
)
from tests.support.toolset_calls import calling

PAGE = Path(__file__).parents[3] / "docs/toolsets.md"
TOKEN = "not-a-pattern"  # that nothing but its own client knows as a secret


class PagerSettings(Table):
    server: RestService | None = None
    archive: RestService | None = None


class Pages(RestPart):
    @tool(idempotent=True, effect="read", origin="outside")
    async def pages(self, team: str, label: str = "") -> Any:
        """The pages of a team."""
        return await self.server.get("teams", team, "pages", params={"label": label, "of": ["a", "b"]})

    @tool(idempotent=True)
    async def page(self, team: str, etag: str = "1") -> Any:
        """Page a team."""
        reply = await self.server.call(
            "POST", "teams", team, "pages", body={"team": team}, headers={"If-Match": etag}
        )
        return reply.data


class PagerTools(RestTools):
    name = "pager"
    config_type = PagerSettings
    parts: ClassVar = {"server": Pages}


class FakePager(FakeService):
    """A fake of no real service: it answers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.app.router.add_route("*", "/{path:.*}", self._echo)

    async def _echo(self, request: web.Request) -> web.Response:
        return web.json_response({"path": request.raw_path})


@pytest.fixture
async def pager() -> AsyncIterator[FakePager]:
    async with FakePager() as pager:
        yield pager


def settings(pager: FakePager, **more: Any) -> dict[str, Any]:
    return {"server": {"url": pager.url, "token": TOKEN, **more}}


async def test_a_call_has_the_credentials_parameters_and_parts_that_it_was_given(pager: FakePager) -> None:
    async with calling(PagerTools, **settings(pager, headers={"X-Scope-OrgID": "home"})) as call:
        answer = await call("pages", team="a/../b?c#d é", label="x&of=c")
        assert await call("page", team="red") == {"path": "/teams/red/pages"}
    assert answer == {"path": "/teams/a%2F..%2Fb%3Fc%23d%20%C3%A9/pages?label=x%26of%3Dc&of=a&of=b"}
    got, posted = pager.requests
    assert got.query == [("label", "x&of=c"), ("of", "a"), ("of", "b")]
    assert (got.headers["Authorization"], got.headers["X-Scope-OrgID"]) == (f"Bearer {TOKEN}", "home")
    assert (posted.body, posted.headers["If-Match"]) == ({"team": "red"}, "1")


async def test_a_user_with_a_password_is_sent_as_basic_authentication(pager: FakePager) -> None:
    known = {"url": pager.url, "user": "ann", "password": "pass"}
    async with calling(PagerTools, server=known) as call:
        await call("pages", team="red")
    assert pager.requests[0].headers["Authorization"] == "Basic YW5uOnBhc3M="


@pytest.mark.parametrize("team", ["", ".", "..", "a\nb", "a\0b", "x" * 501])
async def test_no_argument_leads_to_another_path(pager: FakePager, team: str) -> None:
    async with calling(PagerTools, **settings(pager)) as call:
        with pytest.raises(InvalidInput, match="cannot be a part of a path"):
            await call("pages", team=team)
    assert pager.asked == []


@pytest.mark.parametrize("etag", ["1\r\nX-Admin: yes", "1\nX", "é", "\x7f"])
async def test_no_argument_adds_a_header(pager: FakePager, etag: str) -> None:
    async with calling(PagerTools, **settings(pager)) as call:
        with pytest.raises(InvalidInput, match="cannot be sent as If-Match"):
            await call("page", team="red", etag=etag)
    assert pager.asked == []


async def test_a_redirect_is_not_followed(pager: FakePager) -> None:
    async with FakePager() as private, calling(PagerTools, **settings(pager)) as call:
        pager.faults.append(redirecting(f"{private.url}/secrets"))
        with pytest.raises(
            ToolFailed, match=r"answered 302, a redirect to 127\.0\.0\.1:.* Set url in \[tools.pa"
        ):
            await call("pages", team="red")
        assert private.asked == []


async def test_no_connection_goes_to_a_clouds_metadata_service() -> None:
    async with calling(PagerTools, server={"url": "http://169.254.169.254/latest"}) as call:
        with pytest.raises(
            ToolFailed, match=r"cannot be reached.*169\.254\.169\.254 is not a public address"
        ):
            await call("pages", team="red")


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_that_is_too_large_is_given_up(pager: FakePager, packed: bool) -> None:
    async def bomb(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})

    pager.faults.append(bomb if packed else endless)
    async with calling(PagerTools, **settings(pager, max_bytes="100kB")) as call:
        with pytest.raises(
            ToolFailed, match=r"server answered more than 100,000 bytes \(GET /teams/red/pages"
        ):
            await call("pages", team="red")
    assert len(pager.requests) == 1


@pytest.mark.parametrize(
    "fault", [answering(503), answering(429, Retry_After="0"), cut_off], ids=["503", "429", "cut off"]
)
async def test_a_get_is_tried_again_where_the_service_is_away(pager: FakePager, fault: Any) -> None:
    async with calling(PagerTools, **settings(pager)) as call:
        pager.faults += [fault, fault]
        assert (await call("pages", team="red"))["path"].startswith("/teams/red")
        pager.faults += [fault] * 3
        with pytest.raises(ToolFailed, match=r"server (answered|cannot be reached)"):
            await call("pages", team="red")
    assert len(pager.requests) == 6


async def test_a_service_that_wants_a_long_pause_is_not_asked_again(pager: FakePager) -> None:
    pager.faults.append(answering(429, '{"message": "slow down"}', Retry_After="3600"))
    async with calling(PagerTools, **settings(pager)) as call:
        with pytest.raises(ToolFailed, match=r"429: slow down .*\. Call it again in 3600 seconds"):
            await call("pages", team="red")
    assert len(pager.requests) == 1


@pytest.mark.parametrize(
    "fault", [answering(503, "busy"), answering(500), cut_off], ids=["503", "500", "cut off"]
)
async def test_a_change_is_sent_once_and_may_have_taken_effect(pager: FakePager, fault: Any) -> None:
    pager.faults.append(fault)
    async with calling(PagerTools, **settings(pager)) as call:
        with pytest.raises(ToolFailed, match="It may have taken effect: read the state before"):
            await call("page", team="red")
    assert len(pager.requests) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_change_is_sent_once_where_the_server_hangs_up(pager: FakePager, method: str) -> None:
    pager.faults.append(hung_up)
    client = RestClient("tools.pager.server", RestService(url=pager.url))
    try:
        with pytest.raises(ToolFailed, match="It may have taken effect: read the state before"):
            await client.call(method, "teams")
    finally:
        await client.close()
    assert pager.asked == [f"{method} /teams"]


async def test_a_change_that_is_refused_has_no_effect_and_says_why(pager: FakePager) -> None:
    pager.faults.append(answering(422, '{"errors": [{"code": 9, "message": "no such\\nteam"}]}'))
    async with calling(PagerTools, **settings(pager)) as call:
        with pytest.raises(ToolFailed) as failed:
            await call("page", team="red")
    assert str(failed.value) == "server answered 422: no such team (POST /teams/red/pages)"


@pytest.mark.parametrize("method", ["pages", "page"])
async def test_a_service_that_does_not_answer_is_left_after_the_time_limit(
    pager: FakePager, method: str
) -> None:
    pager.faults.append(silent)
    async with calling(PagerTools, **settings(pager, timeout_seconds=0.2)) as call:
        with pytest.raises(ToolFailed, match=r"did not answer within 0\.2 seconds"):
            await call(method, team="red")


async def test_a_service_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with calling(PagerTools, server={"url": f"http://127.0.0.1:{port}"}) as call:
        with pytest.raises(ToolFailed, match=rf"server cannot be reached: .*127\.0\.0\.1:{port}"):
            await call("pages", team="red")


@pytest.mark.parametrize("body", ["<html>Sign in</html>", '{"a": ', "[" * 5_000 + "]" * 5_000, "\xff\0"])
async def test_an_answer_that_is_not_json_is_shown_as_far_as_it_helps(pager: FakePager, body: str) -> None:
    pager.faults.append(answering(200, body))
    async with calling(PagerTools, **settings(pager)) as call:
        with pytest.raises(ToolFailed, match="server answered 200 without JSON") as failed:
            await call("pages", team="red")
    assert len(str(failed.value)) < 400


async def test_credentials_are_shown_neither_in_results_nor_in_errors(pager: FakePager) -> None:
    secret = 'short"one'
    pager.faults += [
        answering(200, '{"header": "Bearer not-a-pattern", "extra": "short\\"one"}'),
        answering(403, f"not-a-pattern may not, nor {secret}"),
        redirecting("http://not-a-pattern.example.com/"),
    ]
    async with calling(PagerTools, **settings(pager, headers={"X-Key": secret})) as call:
        assert await call("pages", team="red") == {"header": "Bearer [redacted]", "extra": "[redacted]"}
        with pytest.raises(
            ToolFailed, match=r"403: \[redacted\] may not, nor \[redacted\] .*\[tools\.pager\.ser"
        ):
            await call("pages", team="red")
        with pytest.raises(ToolFailed, match=r"a redirect to \[redacted\]\.example\.com"):
            await call("pages", team="red")


async def test_tools_of_services_without_settings_are_not_offered(pager: FakePager) -> None:
    async with calling(PagerTools) as call:
        assert call.tools == {}
    async with calling(PagerTools, **settings(pager)) as call:
        assert [*call.tools] == ["pages", "page"]


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({"url": "pager:80"}, r"\[tools\.pager\] server\.url: .*expected a URL with http"),
        ({"url": "https://ann:pass@pager"}, "expected a URL without user, password, query and fragment"),
        ({"url": "http://pager?a=1"}, "expected a URL without user"),
        ({"url": "http://pager", "token": "env:NO_SUCH_NAME"}, "the environment has no NO_SUCH_NAME"),
        ({"url": "http://pager", "token": "x", "user": "ann"}, "has a token and a user"),
        ({"url": "http://pager", "headers": {"X-A": "1\r\nX-B: 2"}}, "'X-A' cannot be a header"),
        ({"url": "http://pager", "headers": {"X A": "1"}}, "'X A' cannot be a header"),
        ({"url": "http://pager", "tokn": "x"}, r"\[tools\.pager\] server\.tokn"),
    ],
)
async def test_settings_that_cannot_be_used_are_refused(server: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        PagerTools(ToolSettings(tables={"pager": {"server": server}}))


async def test_the_examples_of_the_page_work(pager: FakePager) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)  # noqa: S102 - it is our own page
    assert namespace["Monitor"].toolsets == (ObserveTools,)
    async with calling(namespace["PagerTools"], **settings(pager)) as call:
        assert await call("pages", team="red") == {"path": "/teams/red/pages?state=open"}
        assert await call("page", team="red", reason="disk") == {"path": "/teams/red/pages"}
        assert await call.toolset.check() == "server: all answer"
    assert pager.requests[1].body == {"reason": "disk"}


@pytest.mark.parametrize(
    ("fault", "may_have_happened"),
    [(cut_off, True), (answering(503), True), (answering(409, "taken"), False)],
    ids=["cut off", "overloaded", "refused"],
)
async def test_a_change_without_a_reply_is_in_doubt(
    pager: FakePager, fault: Fault, may_have_happened: bool
) -> None:
    pager.faults.append(fault)
    client = RestClient("tools.pager.server", RestService(url=pager.url))
    try:
        with pytest.raises(ToolFailed) as failure:
            await client.call("POST", "teams", "red", "pages", body={})
    finally:
        await client.close()
    assert failure.value.is_in_doubt == may_have_happened
