"""The toolset `proxy` over a real Caddy: routes read, set, used and deleted, and what it refuses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from meshwright import Agent, Capability
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.parts.stack.machine import Ports
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.toolsets.proxy import ProxyTools
from tests.support.fake_services import FakeService, answering
from tests.support.metrics_services import caddy
from tests.support.services import Services
from tests.support.toolset_calls import Calls, calling

pytestmark = pytest.mark.needs("caddy")
GUARDED = {
    "@id": "guarded",
    "match": [{"host": ["guarded.home.example.com"]}],
    "handle": [
        {"handler": "headers", "response": {"set": {"X-Guarded": ["yes"]}}},
        {"handler": "reverse_proxy", "upstreams": [{"dial": "10.0.0.9:80"}]},
    ],
}
LAST = {"@id": "last", "handle": [{"handler": "static_response", "body": "nothing here"}]}


@dataclass
class Proxy:
    url: str
    admin: str
    admin_port: int

    @property
    def caddy(self) -> dict[str, Any]:
        allowed = {"hosts": ["*.home.example.com"], "upstreams": ["127.0.0.1:*", "10.0.0.*:*"]}
        return {"url": self.admin, **allowed}

    async def body(self, host: str) -> str:
        """The body of the front page of a host."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.url, headers={"Host": host}) as response,
        ):
            return await response.text()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    ports = Ports()
    services = Services(tmp_path_factory.mktemp("proxy"), {})
    try:
        front, admin = ports.take(2)
        server = {
            "listen": [f"127.0.0.1:{front}"],
            "routes": [GUARDED, LAST],
            "automatic_https": {"disable": True},
        }
        empty = {"listen": ["127.0.0.1:0"], "automatic_https": {"disable": True}}
        config = {"apps": {"http": {"servers": {"home": server, "empty": empty}}}}
        yield Proxy(f"http://127.0.0.1:{front}", caddy(services, ports, config, admin), admin)
    finally:
        services.close()
        ports.close()


async def etag(call: Calls) -> str:
    return (await call("routes"))["etag"]


async def test_a_route_is_set_used_changed_and_deleted(proxy: Proxy) -> None:
    hosts = ["wiki.home.example.com"]
    async with (
        FakeService() as old,
        FakeService() as new,
        calling(ProxyTools, caddy={**proxy.caddy, "server": "home"}) as call,
    ):
        old.faults.append(answering(200, "the old wiki"))
        new.faults.append(answering(200, "the new wiki"))
        assert await proxy.body(hosts[0]) == "nothing here"
        before = await etag(call)
        route = {"id": "wiki", "hosts": hosts, "upstream": old.url.removeprefix("http://")}
        assert await call("set_route", **route, etag=before) == {"id": "wiki", "changed": True}
        assert await call("set_route", **route, etag=before) == {"id": "wiki", "changed": False}
        assert await proxy.body(hosts[0]) == "the old wiki"
        [home] = [server for server in (await call("routes"))["servers"] if server["server"] == "home"]
        assert home["routes"][0] == {
            "id": "wiki",
            "hosts": hosts,
            "upstreams": [route["upstream"]],
            "handlers": ["reverse_proxy"],
        }
        assert [route["id"] for route in home["routes"]] == ["wiki", "guarded", "last"]
        route["upstream"] = new.url.removeprefix("http://")
        with pytest.raises(ToolFailed, match="the routes are not as they were read"):
            await call("set_route", **route, etag=before)
        await call("set_route", **route, etag=await etag(call))
        assert await proxy.body(hosts[0]) == "the new wiki"
        now = await etag(call)
        assert await call("delete_route", id="wiki", etag=now) == {"id": "wiki", "changed": True}
        assert await call("delete_route", id="wiki", etag=now) == {"id": "wiki", "changed": False}
        assert await proxy.body(hosts[0]) == "nothing here"
        assert await etag(call) == before


async def test_a_server_without_routes_gets_its_first_and_then_its_first_again(proxy: Proxy) -> None:
    async with calling(ProxyTools, caddy={**proxy.caddy, "server": "empty"}) as call:
        route = {"id": "first", "hosts": ["a.home.example.com"], "upstream": "10.0.0.1:80"}
        await call("set_route", **route, etag=await etag(call))
        await call("delete_route", id="first", etag=await etag(call))  # which leaves an empty list
        await call("set_route", **route, etag=await etag(call))
        [empty] = [server for server in (await call("routes"))["servers"] if server["server"] == "empty"]
        assert [each["id"] for each in empty["routes"]] == ["first"]
        await call("delete_route", id="first", etag=await etag(call))


async def test_a_change_that_lost_a_race_is_refused_by_caddy(proxy: Proxy) -> None:
    """Another changes the routes between the look of the tool and its change."""
    route = {"id": "late", "hosts": ["late.home.example.com"], "upstream": "10.0.0.1:80"}
    async with (
        calling(ProxyTools, caddy={**proxy.caddy, "server": "home"}) as call,
        Meddler(proxy) as meddler,
    ):
        seen = await call("routes")
        async with calling(ProxyTools, caddy={**proxy.caddy, "url": meddler.url, "server": "home"}) as slow:
            with pytest.raises(ToolFailed, match="answered 412"):
                await slow("set_route", **route, etag=seen["etag"])
        found = [each["id"] for server in (await call("routes"))["servers"] for each in server["routes"]]
        assert "late" not in found and "meddler" in found
        await call("delete_route", id="meddler", etag=await etag(call))
        assert await call("routes") == seen


class Meddler(FakeService):
    """Hands requests on to Caddy; before the first change it adds a route by itself."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self.proxy = proxy
        self.app.router.add_route("*", "/{path:.*}", self._hand_on)

    async def _hand_on(self, request: web.Request) -> web.Response:
        async with aiohttp.ClientSession(self.proxy.admin) as session:
            if request.method != "GET":
                meddled = {"@id": "meddler", "match": [{"host": ["m.home.example.com"]}], "handle": []}
                await session.post("/config/apps/http/servers/home/routes", json=meddled)
            headers = {
                name: request.headers[name]
                for name in ("If-Match", "Content-Type")
                if name in request.headers
            }
            data = await request.read()
            async with session.request(
                request.method, request.raw_path, data=data, headers=headers
            ) as answer:
                body = await answer.read()
                kept = {"Etag": answer.headers["Etag"]} if "Etag" in answer.headers else {}
                return web.Response(status=answer.status, body=body, headers=kept)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hosts": ["bank.example.com"]}, r"routes for 'bank\.example\.com' may not be changed"),
        ({"hosts": ["a.home.example.com", "*.com"]}, r"routes for '\*\.com' may not be changed"),
        ({"hosts": []}, "hosts: List should have at least 1 item"),
        ({"hosts": ["A.home.example.com"]}, "should match pattern"),
        ({"hosts": ["a b.home.example.com"]}, "should match pattern"),
        ({"upstream": "192.168.1.1:80"}, r"no route may lead to '192\.168\.1\.1:80'"),
        ({"upstream": "unix//run/docker.sock"}, "should match pattern"),
        ({"upstream": "10.0.0.1:80@x"}, "should match pattern"),
        ({"id": "../apps"}, "should match pattern"),
        ({"etag": '1"\r\nX: y'}, "should match pattern"),
        ({"id": "guarded", "hosts": ["guarded.home.example.com"]}, "route 'guarded' does more than to lead"),
        ({"id": "last", "hosts": ["x.home.example.com"]}, "route 'last' does more than to lead"),
    ],
)
async def test_a_route_that_is_not_allowed_is_refused(
    proxy: Proxy, changes: dict[str, Any], problem: str
) -> None:
    async with calling(ProxyTools, caddy={**proxy.caddy, "server": "home"}) as call:
        seen = await call("routes")
        route = {"id": "a", "hosts": ["a.home.example.com"], "upstream": "10.0.0.1:80", "etag": seen["etag"]}
        with pytest.raises((InvalidInput, ToolFailed), match=problem):
            await call("set_route", **route | changes)
        assert await call("routes") == seen


async def test_a_route_for_hosts_beyond_the_settings_keeps_its_hosts(proxy: Proxy) -> None:
    dial = {"handler": "reverse_proxy", "upstreams": [{"dial": "10.0.0.9:80"}]}
    shop = {"@id": "shop", "match": [{"host": ["shop.example.com"]}], "handle": [dial]}
    paths = {"@id": "paths", "match": [{"path": ["/x"]}, {"host": ["a.home.example.com"]}], "handle": [dial]}
    place = f"{proxy.admin}/config/apps/http/servers/empty"
    empty = {"listen": ["127.0.0.1:0"], "automatic_https": {"disable": True}}
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        calling(ProxyTools, caddy={**proxy.caddy, "server": "empty"}) as call,
    ):
        await session.post(place, json={**empty, "routes": [shop, paths]})
        try:
            now = await etag(call)
            route = {"hosts": ["a.home.example.com"], "upstream": "10.0.0.1:80", "etag": now}
            with pytest.raises(InvalidInput, match=r"routes for 'shop\.example\.com' may not be changed"):
                await call("set_route", id="shop", **route)
            with pytest.raises(ToolFailed, match="route 'paths' is for every host"):
                await call("delete_route", id="paths", etag=now)
            assert await etag(call) == now
        finally:
            await session.post(place, json=empty)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1", "router.lan"])
async def test_no_route_leads_to_the_api_of_caddy_or_to_metadata(proxy: Proxy, host: str) -> None:
    async with calling(ProxyTools, caddy={**proxy.caddy, "server": "home", "upstreams": ["*"]}) as call:
        for upstream in (f"{host}:{proxy.admin_port}", f"{host}:02019", "169.254.169.254:80"):
            with pytest.raises(InvalidInput, match="no route may lead to"):
                await call("set_route", id="a", hosts=["a.home.example.com"], upstream=upstream, etag="1")


async def test_without_settings_for_it_nothing_is_changed(proxy: Proxy) -> None:
    async with calling(ProxyTools, caddy={"url": proxy.admin}) as call:
        seen = await call("routes")
        with pytest.raises(InvalidInput, match=r"only hosts in \[tools\.proxy\.caddy\]"):
            await call("set_route", id="a", hosts=["a.b"], upstream="c:1", etag=seen["etag"])
        with pytest.raises(InvalidInput, match=r"only hosts in \[tools\.proxy\.caddy\]"):
            await call("delete_route", id="guarded", etag=seen["etag"])
        with pytest.raises(ToolFailed, match="route 'last' is for every host"):
            await call("delete_route", id="last", etag=seen["etag"])
    allowed = {**proxy.caddy, "url": proxy.admin}
    async with calling(ProxyTools, caddy=allowed) as call:
        with pytest.raises(ToolFailed, match=r"which server .* Set server in .* there are: empty, home"):
            await call(
                "set_route", id="a", hosts=["a.home.example.com"], upstream="10.0.0.1:80", etag=seen["etag"]
            )


class Keeper(Agent):
    """Keeps the proxy."""

    agent_id = "keeper"
    capabilities = (Capability("proxy-management"),)
    toolsets = (ProxyTools,)


async def test_a_person_denies_a_route(proxy: Proxy) -> None:
    tables = {"proxy": {"caddy": {**proxy.caddy, "server": "home"}}}
    async with calling(ProxyTools, caddy=tables["proxy"]["caddy"]) as call:
        seen = await call("routes")
        route = {"id": "b", "hosts": ["b.home.example.com"], "upstream": "10.0.0.1:80", "etag": seen["etag"]}
        model = ScriptedModel(tool_call("set_route", **route), "It was denied.")
        async with mesh_for(Keeper, model=model, tools=tables) as mesh:
            receipt = await mesh.submit(agent_id="keeper", payload={"text": "Publish b."})
            [question] = await mesh.questions()
            effect = question.subject["effect"]
            assert question.subject["arguments"] == route and effect["before"] is None
            assert (effect["server"], effect["after"]["match"]) == ("home", [{"host": route["hosts"]}])
            await mesh.answer(question, {"approve": False, "reason": "not public"})
            assert (await mesh.outcome(receipt.task_id)).text == "It was denied."
        assert "tester denied it: not public" in str(model.requests[1].messages[-1].content)
        assert await call("routes") == seen
