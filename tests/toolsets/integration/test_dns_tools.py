"""The toolset `dns` over a fake of Cloudflare: records and tunnels, with approvals, repeats and refusals."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from meshwright import Agent, Capability
from meshwright.core.errors import ConfigError, InvalidInput, ToolFailed
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.tools import ToolSettings
from meshwright.toolsets.dns import DnsTools
from tests.support.fake_cloudflare import ACCOUNT, TOKEN, TUNNEL, FakeCloudflare
from tests.support.fake_services import answering, cut_off
from tests.support.toolset_calls import Calls, calling

ZONE = "home.example.com"
WIKI = {"zone": ZONE, "type": "A", "name": f"wiki.{ZONE}"}
ROUTE = {"tunnel": "house", "zone": ZONE, "host": f"wiki.{ZONE}", "service": "http://10.0.0.5:8080"}


@pytest.fixture
async def cloudflare() -> AsyncIterator[FakeCloudflare]:
    async with FakeCloudflare() as cloudflare:
        cloudflare.add("A", f"wiki.{ZONE}", "192.0.2.1", comment="by hand")
        yield cloudflare


@pytest.fixture
async def call(cloudflare: FakeCloudflare) -> AsyncIterator[Calls]:
    async with calling(DnsTools, cloudflare=table(cloudflare)) as call:
        yield call


def table(cloudflare: FakeCloudflare, **more: Any) -> dict[str, Any]:
    allowed = {"account": ACCOUNT, "names": [f"*.{ZONE}"], "services": ["http://10.0.0.*:*"]}
    return {"url": f"{cloudflare.url}/client/v4", "token": TOKEN, **allowed, **more}


async def test_zones_and_records_are_listed(call: Calls, cloudflare: FakeCloudflare) -> None:
    assert await call("zones") == {"zones": [{"zone": ZONE, "status": "active"}]}
    for number in range(101):
        cloudflare.add("TXT", f"t{number}.{ZONE}", "x")
    first, second = [await call("records", zone=ZONE, page=page) for page in (1, 2)]
    assert (len(first["records"]), len(second["records"]), first["pages"]) == (100, 2, 2)
    [wiki] = (await call("records", zone=ZONE, name=f"wiki.{ZONE}"))["records"]
    about = {"ttl": 1, "proxied": False, "comment": "by hand"}
    assert wiki == {"type": "A", "name": f"wiki.{ZONE}", "content": "192.0.2.1", **about}
    with pytest.raises(ToolFailed, match=r"there is no zone 'bank\.example\.com'"):
        await call("records", zone="bank.example.com")


async def test_a_record_is_changed_once_and_keeps_what_it_has_besides(
    call: Calls, cloudflare: FakeCloudflare
) -> None:
    change = {**WIKI, "content": "192.0.2.2", "was": "192.0.2.1", "proxied": True}
    changed = await call("set_record", **change)
    assert changed["changed"] and changed["record"]["comment"] == "by hand" and changed["record"]["proxied"]
    assert cloudflare.contents == {("A", f"wiki.{ZONE}", "192.0.2.2")}
    before = len([asked for asked in cloudflare.asked if not asked.startswith("GET")])
    assert (await call("set_record", **change))["changed"] is False
    assert len([asked for asked in cloudflare.asked if not asked.startswith("GET")]) == before == 1


async def test_a_check_cannot_tell_of_a_record_that_is_not_there_yet(
    call: Calls, cloudflare: FakeCloudflare
) -> None:
    change = {**WIKI, "content": "192.0.2.2", "was": "192.0.2.1"}
    checks = [
        await call.check("set_record", **change),
        await call.check("delete_record", **WIKI, was="192.0.2.1"),
    ]
    assert [checked.outcome for checked in checks] == ["unknown", "unknown"]  # it may be on its way
    assert "There still is the record" in checks[1].evidence
    assert not [request for request in cloudflare.asked if not request.startswith("GET")]


async def test_a_record_that_others_changed_stays(call: Calls, cloudflare: FakeCloudflare) -> None:
    with pytest.raises(
        ToolFailed, match=r"does not have '192\.0\.2\.9' any more but '192\.0\.2\.1'\. Read it"
    ):
        await call("set_record", **WIKI, content="192.0.2.2", was="192.0.2.9")
    with pytest.raises(ToolFailed, match=r"does not have '192\.0\.2\.9' any more"):
        await call("delete_record", **WIKI, was="192.0.2.9")
    assert cloudflare.contents == {("A", f"wiki.{ZONE}", "192.0.2.1")}


async def test_a_new_record_stands_beside_others_and_is_made_once(
    call: Calls, cloudflare: FakeCloudflare
) -> None:
    for changed in (True, False):
        assert (await call("set_record", **WIKI, content="192.0.2.2", was=""))["changed"] is changed
    text = {"zone": ZONE, "type": "TXT", "name": f"t.{ZONE}", "content": "v=spf1 -all", "was": ""}
    for changed in (True, False):
        assert (await call("set_record", **text))["changed"] is changed
    both = {("A", f"wiki.{ZONE}", "192.0.2.1"), ("A", f"wiki.{ZONE}", "192.0.2.2")}
    assert cloudflare.contents == both | {("TXT", f"t.{ZONE}", '"v=spf1 -all"')}
    with pytest.raises(ToolFailed, match="has both contents, the old one and the new"):
        await call("set_record", **WIKI, content="192.0.2.2", was="192.0.2.1")


async def test_a_record_is_deleted_once(call: Calls, cloudflare: FakeCloudflare) -> None:
    assert (await call("delete_record", **WIKI, was="192.0.2.1"))["changed"] is True
    assert await call("delete_record", **WIKI, was="192.0.2.1") == {"changed": False}
    assert cloudflare.contents == set()


async def test_a_repeat_makes_good_a_change_whose_answer_was_lost(
    call: Calls, cloudflare: FakeCloudflare
) -> None:
    async def lost(request: web.Request) -> web.StreamResponse:
        for record in cloudflare.records.values():
            record["content"] = "192.0.2.2"
        return await cut_off(request)

    change = {**WIKI, "content": "192.0.2.2", "was": "192.0.2.1"}
    cloudflare.faults_of_changes.append(lost)
    with pytest.raises(ToolFailed, match="It may have taken effect: read the state before"):
        await call("set_record", **change)
    assert (await call("set_record", **change))["changed"] is False


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": f"a.b.{ZONE}"}, "may not be changed"),
        ({"name": ZONE}, "may not be changed"),
        ({"name": f"evil{ZONE}"}, "is not in the zone"),
        ({"name": "wiki.bank.example.com"}, "is not in the zone"),
        ({"name": f"wiki.{ZONE}/../x"}, "should match pattern"),
        ({"zone": "../user/tokens"}, "should match pattern"),
        ({"type": "NS"}, "type: Input should be"),
        ({"ttl": 5}, "ttl has to be 1, or at least 30"),
        ({"content": ""}, "at least 1 character"),
    ],
)
async def test_a_record_that_is_not_allowed_is_refused(
    call: Calls, cloudflare: FakeCloudflare, changes: dict[str, Any], problem: str
) -> None:
    change = {**WIKI, "content": "192.0.2.2", "was": "192.0.2.1"} | changes
    with pytest.raises(InvalidInput, match=problem):
        await call("set_record", **change)
    assert all(asked.startswith("GET") for asked in cloudflare.asked)
    assert cloudflare.contents == {("A", f"wiki.{ZONE}", "192.0.2.1")}


async def test_refusals_of_cloudflare_are_in_its_words(call: Calls, cloudflare: FakeCloudflare) -> None:
    cname = {**WIKI, "type": "CNAME", "content": "example.com", "was": ""}
    with pytest.raises(ToolFailed, match="400: An A, AAAA, or CNAME record with that host already exists"):
        await call("set_record", **cname)
    odd = [
        ('{"success": false, "errors": [{"code": 1, "message": "no"}]}', "Cloudflare did not do it: no"),
        ('{"success": false}', "Cloudflare did not do it"),
        ("[]", "Cloudflare did not do it"),
        ("<html>", "without JSON"),
    ]
    for text, problem in odd:
        cloudflare.faults.append(answering(200, text))
        with pytest.raises(ToolFailed, match=problem):
            await call("zones")
    cloudflare.faults.append(answering(429, "{}", Retry_After="300"))
    with pytest.raises(ToolFailed, match="Call it again in 300 seconds"):
        await call("zones")
    async with calling(DnsTools, cloudflare=table(cloudflare, token="wrong-token")) as stranger:
        with pytest.raises(ToolFailed, match=r"403: Invalid access token .*\[tools\.dns\.cloudflare\]"):
            await stranger("zones")


async def test_a_host_is_led_through_a_tunnel_and_gets_its_record(
    call: Calls, cloudflare: FakeCloudflare
) -> None:
    cloudflare.records.clear()
    made = await call("route_tunnel", **ROUTE, was="")
    assert made["changed"] and made["rule"]["after"]["service"] == ROUTE["service"]
    assert cloudflare.contents == {("CNAME", f"wiki.{ZONE}", f"{TUNNEL}.cfargotunnel.com")}
    hosts = [rule["hostname"] for rule in cloudflare.config["ingress"]]
    assert hosts == [f"wiki.{ZONE}", ""]
    [house] = await call("tunnels")
    assert (house["tunnel"], house["status"], len(house["routes"])) == ("house", "healthy", 2)
    cloudflare.config["ingress"][0]["originRequest"] = {"noTLSVerify": True}
    for change in (True, False):
        other = ROUTE | {"service": "http://10.0.0.6:80"}
        assert (await call("route_tunnel", **other, was=ROUTE["service"]))["changed"] is change
    assert cloudflare.config["ingress"][0]["originRequest"] == {"noTLSVerify": True}
    assert cloudflare.config["ingress"][0]["service"] == "http://10.0.0.6:80"
    with pytest.raises(ToolFailed, match=r"does not lead to http://10\.0\.0\.5:8080 any more"):
        await call("route_tunnel", **ROUTE | {"service": "http://10.0.0.7:80"}, was=ROUTE["service"])


async def test_a_tunnel_takes_no_host_from_other_records(call: Calls, cloudflare: FakeCloudflare) -> None:
    with pytest.raises(ToolFailed, match=r"has other records, such as A 192\.0\.2\.1"):
        await call("route_tunnel", **ROUTE, was="")
    with pytest.raises(InvalidInput, match="no tunnel may lead to 'http://169"):
        await call("route_tunnel", **ROUTE | {"service": "http://169.254.169.254:80"}, was="")
    with pytest.raises(InvalidInput, match="no tunnel may lead to 'ssh://10"):
        await call("route_tunnel", **ROUTE | {"service": "ssh://10.0.0.5:22"}, was="")
    with pytest.raises(InvalidInput, match=r"no tunnel may lead to 'http://10\.0\.0\.x\.ex"):
        await call("route_tunnel", **ROUTE | {"service": "http://10.0.0.x.example.com:80"}, was="")
    with pytest.raises(ToolFailed, match="there are 0 tunnels 'barn'"):
        await call("route_tunnel", **ROUTE | {"tunnel": "barn"}, was="")
    assert all(asked.startswith("GET") for asked in cloudflare.asked)
    async with calling(DnsTools, cloudflare=table(cloudflare, account="")) as without:
        with pytest.raises(ToolFailed, match=r"Set account in \[tools\.dns\.cloudflare\]"):
            await without("tunnels")


async def test_doctor_asks_cloudflare_and_settings_are_checked(
    call: Calls, cloudflare: FakeCloudflare
) -> None:
    assert await call.toolset.check() == "cloudflare: all answer"
    with pytest.raises(ConfigError, match=r"cloudflare\.account"):
        DnsTools(ToolSettings(tables={"dns": {"cloudflare": {"account": "../x"}}}))


class Registrar(Agent):
    """Keeps DNS records."""

    agent_id = "registrar"
    capabilities = (Capability("dns-management"),)
    toolsets = (DnsTools,)


@pytest.mark.parametrize("meddles", [False, True])
async def test_a_record_is_changed_with_the_effect_that_a_person_approved(
    cloudflare: FakeCloudflare, meddles: bool
) -> None:
    change = {**WIKI, "content": "192.0.2.2", "was": "192.0.2.1"}
    model = ScriptedModel(tool_call("set_record", **change), "That is all.")
    async with mesh_for(Registrar, model=model, tools={"dns": {"cloudflare": table(cloudflare)}}) as mesh:
        receipt = await mesh.submit(agent_id="registrar", payload={"text": "Move the wiki."})
        [question] = await mesh.questions()
        before = {"type": "A", "name": f"wiki.{ZONE}", "content": "192.0.2.1", "ttl": 1, "proxied": False}
        after = {"type": "A", "name": f"wiki.{ZONE}", "content": "192.0.2.2"}
        assert question.subject["effect"] == {"before": {**before, "comment": "by hand"}, "after": after}
        assert cloudflare.contents == {("A", f"wiki.{ZONE}", "192.0.2.1")}
        if meddles:
            next(iter(cloudflare.records.values()))["proxied"] = True
        await mesh.answer(question, {"approve": True})
        assert (await mesh.outcome(receipt.task_id)).text == "That is all."
    said = str(model.requests[1].messages[-1].content)
    assert ("its effect is another than was approved" in said) is meddles
    expected = "192.0.2.1" if meddles else "192.0.2.2"
    assert cloudflare.contents == {("A", f"wiki.{ZONE}", expected)}


async def test_a_call_that_is_not_allowed_asks_nobody(cloudflare: FakeCloudflare) -> None:
    change = {**WIKI, "name": ZONE, "content": "192.0.2.2", "was": ""}
    model = ScriptedModel(tool_call("set_record", **change), "I may not.")
    async with mesh_for(Registrar, model=model, tools={"dns": {"cloudflare": table(cloudflare)}}) as mesh:
        assert (await mesh.ask("registrar", "Move all.")).text == "I may not."
    assert "may not be changed" in str(model.requests[1].messages[-1].content)
