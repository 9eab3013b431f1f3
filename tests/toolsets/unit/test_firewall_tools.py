"""The toolset `firewall` over the real nftables, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.loader import BoundAgents
from meshwright.core.errors import ConfigError, InvalidInput, ToolFailed
from meshwright.engine.events.inbox import Question
from meshwright.mesh.app import build_mesh
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call
from meshwright.tools import ToolSettings
from meshwright.toolsets.firewall import FirewallTools
from tests.support.services import unavailable
from tests.support.settings import load_settings
from tests.support.toolset_calls import calling

pytestmark = pytest.mark.needs("nft", "nsenter", "unshare", "ip")
CHAIN = "inet filter mesh"
CONNECT = "import socket; socket.create_connection(('127.0.0.1', {}), 5).close()"
LISTEN = """
import socket
server = socket.create_server(("127.0.0.1", 8080))
print("ready", flush=True)
while True:
    server.accept()
"""
SHUT = {"action": "reject", "protocol": "tcp", "ports": "8080", "source": "127.0.0.0/8", "note": "for now"}
OPEN = {"action": "accept", "protocol": "tcp", "ports": "8000-8999", "source": "127.0.0.1"}


class Guard(Agent):
    """Changes a firewall."""

    agent_id = "guard"
    capabilities = (Capability("firewall-management", requirements=("firewall",)),)
    toolsets = (FirewallTools,)
    prompt_text = "You guard."
    remembers = False


@dataclass
class Namespace:
    """A network of its own, with a firewall and a server at port 8080."""

    enter: tuple[str, ...]

    def nft(self, *arguments: str) -> str:
        return subprocess.run(
            [*self.enter, "nft", *arguments], check=True, capture_output=True, text=True
        ).stdout

    def can_connect(self) -> bool:
        command = [*self.enter, sys.executable, "-c", CONNECT.format(8080)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @property
    def rules(self) -> list[str]:
        lines = self.nft("list", "chain", *CHAIN.split()).splitlines()
        return [line.strip() for line in lines[2:-2]]

    def settings(self, **changes: Any) -> dict[str, Any]:
        allowed = {"ports": ["tcp/8000-8999", "udp/53"], "sources": ["127.0.0.0/8", "fd00::/8"]}
        command = [*self.enter, "nft"]
        return {"nftables": {"command": command, "chain": CHAIN, **allowed, **changes}}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace with an empty chain that its input goes through; skips where none can be made."""
    started = [*("unshare", "--user", "--map-root-user", "--net"), "sh", "-c"]
    holder = subprocess.Popen(
        [*started, "ip link set lo up && nft add table inet filter && echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert holder.stdin and holder.stdout
    server = None
    try:
        if (said := holder.stdout.readline()) != "ready\n":
            unavailable(f"needs a network namespace with nftables: {said}")
        place = Namespace(("nsenter", f"--target={holder.pid}", "--user", "--preserve-credentials", "--net"))
        place.nft("add chain inet filter mesh")
        place.nft("add chain inet filter input { type filter hook input priority 0; }")
        place.nft("add rule inet filter input tcp dport 1-65535 jump mesh")
        server = subprocess.Popen(
            [*place.enter, sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout and server.stdout.readline() == "ready\n"
        yield place
    finally:
        for process in filter(None, (server, holder)):
            process.kill()
            process.communicate()


def results(model: ScriptedModel) -> list[Any]:
    """The results of the calls so far, in their order."""
    said = [message.text for message in model.requests[-1].messages if message.role == "tool"]
    return [json.loads(text) for text in said]


async def etag(namespace: Namespace) -> str:
    async with calling(FirewallTools, **namespace.settings()) as call:
        return (await call("firewall_rules"))["etag"]


async def asked(mesh: MeshUnderTest, namespace: Namespace, *rules: dict[str, str]) -> str:
    """Have the agent set rules; returns the id of its task."""
    call = tool_call("set_firewall_rules", rules=list(rules), etag=await etag(namespace))
    mesh.model.replies(call, "Done.")
    return (await mesh.submit(agent_id="guard", payload={"text": "Guard it."})).task_id


async def approved(mesh: MeshUnderTest) -> Question:
    """Approve the change, and return the question whether all is still reachable."""
    [approval] = await mesh.questions()
    await mesh.answer(approval, {"approve": True})
    while (question := (await mesh.questions())[0]).wait_id == approval.wait_id:
        await asyncio.sleep(0.01)
    return question


async def test_rules_are_approved_set_confirmed_and_hold(namespace: Namespace) -> None:
    tools = {"firewall": namespace.settings()}
    async with mesh_for(Guard, model=ScriptedModel(), tools=tools) as mesh:
        task_id = await asked(mesh, namespace, SHUT, {**OPEN, "protocol": "udp", "ports": "53"})
        [approval] = await mesh.questions()
        after = ["reject tcp/8080 from 127.0.0.0/8 (for now)", "accept udp/53 from 127.0.0.1"]
        assert approval.subject["effect"] == {"chain": CHAIN, "before": [], "after": after}
        assert namespace.rules == [] and namespace.can_connect()
        question = await approved(mesh)
        assert "Without a yes within 60 seconds they are undone" in question.question
        assert not namespace.can_connect(), "they hold already"
        await mesh.answer(question, {"keep": True})
        assert (await mesh.outcome(task_id)).success
    assert results(mesh.model)[-1] == {"changed": True, "rules": after}
    assert not namespace.can_connect()
    shut, opened = namespace.rules
    assert shut.startswith("ip saddr 127.0.0.0/8 tcp dport 8080 reject")
    assert opened.startswith("ip saddr 127.0.0.1 udp dport 53 accept")
    async with calling(FirewallTools, **namespace.settings()) as call:
        read = await call("firewall_rules")
    assert [rule["action"] for rule in read["rules"]] == ["reject", "accept"]
    assert "jump mesh" in read["ruleset"]


async def test_rules_that_nobody_confirms_are_undone(namespace: Namespace, clock: ManualClock) -> None:
    tools = {"firewall": namespace.settings(confirm_seconds=30)}
    async with mesh_for(Guard, model=ScriptedModel(), clock=clock, tools=tools) as mesh:
        task_id = await asked(mesh, namespace, SHUT)
        await approved(mesh)
        assert not namespace.can_connect()
        await mesh.advance(31)
        await mesh.outcome(task_id)
    assert "they were not confirmed within 30 seconds" in results(mesh.model)[-1]["error"]
    assert namespace.rules == [] and namespace.can_connect()


@pytest.mark.parametrize("rule", ["tcp dport 22 accept", "udp dport 53 accept"])
async def test_rules_beyond_the_settings_stop_a_change(namespace: Namespace, rule: str) -> None:
    namespace.nft(f"add rule inet filter mesh {rule}")
    known = namespace.rules
    async with calling(FirewallTools, **namespace.settings()) as call:
        unused: Any = None
        arguments = json.dumps({"rules": [SHUT], "etag": (await call("firewall_rules"))["etag"]})
        with pytest.raises(ToolFailed, match=r"rules that a person has written: accept (tcp/22|udp/53)"):
            await call.tools["set_firewall_rules"].preview(arguments, unused)
    async with mesh_for(Guard, model=ScriptedModel(), tools={"firewall": namespace.settings()}) as mesh:
        await mesh.outcome(await asked(mesh, namespace, SHUT))
        assert "rules that a person has written" in results(mesh.model)[-1]["error"]
    assert namespace.rules == known


async def test_rules_are_undone_when_the_call_that_set_them_fails(
    namespace: Namespace, tmp_path: Path
) -> None:
    program, mark = tmp_path / "nft", tmp_path / "hung"
    program.write_text(f"""#!/bin/sh
{" ".join(namespace.enter)} nft "$@"
if [ "$1 $2" = "-j -f" ] && [ ! -e {mark} ]; then touch {mark}; exec sleep 600; fi
""")
    program.chmod(0o700)
    tools = {"firewall": namespace.settings(command=[str(program)], timeout_seconds=2)}
    async with mesh_for(Guard, model=ScriptedModel(), tools=tools) as mesh:
        task_id = await asked(mesh, namespace, SHUT)
        [approval] = await mesh.questions()
        await mesh.answer(approval, {"approve": True})
        await mesh.outcome(task_id)
    assert mark.exists() and "took longer than 2 seconds" in results(mesh.model)[-1]["error"]
    assert namespace.rules == [] and namespace.can_connect()


async def test_rules_are_undone_after_a_restart_too(namespace: Namespace, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data_dir": tmp_path / "data", "tools": {"firewall": namespace.settings()}}
    settings, model = load_settings(tmp_path, **options), ScriptedModel()
    async with build_mesh(settings, project=tmp_path, agents=[Guard], model=model) as first:
        mesh = MeshUnderTest(first, model, None)
        task_id = await asked(mesh, namespace, SHUT)
        await approved(mesh)
    assert not namespace.can_connect()
    async with build_mesh(settings, project=tmp_path, agents=[Guard], model=model) as second:
        mesh = MeshUnderTest(second, model, None)
        [question] = await mesh.questions()
        await mesh.answer(question, {"keep": False})
        await mesh.outcome(task_id)
    assert "a person did not confirm them" in results(model)[-1]["error"]
    assert namespace.rules == [] and namespace.can_connect()


async def test_change_of_somebody_else_is_left_alone(namespace: Namespace, clock: ManualClock) -> None:
    tools = {"firewall": namespace.settings()}
    async with mesh_for(Guard, model=ScriptedModel(), clock=clock, tools=tools) as mesh:
        task_id = await asked(mesh, namespace, SHUT)
        await approved(mesh)
        namespace.nft("add rule inet filter mesh udp dport 53 drop")
        await mesh.advance(61)
        await mesh.outcome(task_id)
        assert "the rules are not as they were read" in results(mesh.model)[-1]["error"]
        assert len(namespace.rules) == 2
        namespace.nft("add rule inet filter mesh ct state new log")
        task_id = await asked(mesh, namespace, OPEN)
        await mesh.outcome(task_id)
        assert "has rules that a person has written" in results(mesh.model)[-1]["error"]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({**SHUT, "ports": "22"}, "no rule may be for tcp/22"),
        ({**SHUT, "ports": "7999-8080"}, "no rule may be for tcp/7999-8080"),
        ({**SHUT, "protocol": "udp"}, "no rule may be for udp/8080"),
        ({**SHUT, "source": ""}, "no rule may be for anywhere"),
        ({**SHUT, "source": "0.0.0.0/0"}, "no rule may be for 0.0.0.0/0"),
        ({**SHUT, "source": "fe80::1"}, "no rule may be for fe80::1"),
        ({**SHUT, "source": "127.0.0.1; flush ruleset"}, "was not run"),
        ({**SHUT, "ports": "9-8"}, "was not run"),
        ({**SHUT, "note": 'x"; flush ruleset'}, "was not run"),
        ({**SHUT, "action": "jump"}, "was not run"),
        ({**SHUT, "extra": "1"}, "was not run"),
    ],
)
async def test_rules_beyond_the_settings_are_refused(
    namespace: Namespace, rule: dict[str, str], problem: str
) -> None:
    async with calling(FirewallTools, **namespace.settings()) as call:
        with pytest.raises(InvalidInput, match=problem):
            await call("set_firewall_rules", rules=[rule], etag=await etag(namespace))
    assert namespace.rules == []


async def test_rules_are_set_as_they_were_read_or_not_at_all(namespace: Namespace) -> None:
    old = await etag(namespace)
    namespace.nft("add rule inet filter mesh ip6 saddr fd00::/8 tcp dport 8000-8999 accept")
    async with calling(FirewallTools, **namespace.settings()) as call:
        [rule] = (await call("firewall_rules"))["rules"]
        assert (rule["source"], rule["ports"]) == ("fd00::/8", "8000-8999")
        with pytest.raises(ToolFailed, match="the rules are not as they were read"):
            nobody: Any = None
            arguments = json.dumps({"rules": [SHUT], "etag": old})
            await call.tools["set_firewall_rules"].preview(arguments, nobody)


async def test_doctor_reads_the_chain_and_says_what_is_missing(namespace: Namespace) -> None:
    async with calling(FirewallTools, **namespace.settings()) as call:
        assert await call.toolset.check() == f"{CHAIN}: 0 rules"
    for change, problem in (
        ({"chain": "inet filter other"}, "there is no chain inet filter other"),
        ({"command": ["no-such-nft"]}, "no-such-nft cannot be started"),
    ):
        settings = namespace.settings(**change)
        async with calling(FirewallTools, **settings) as call:
            with pytest.raises(ToolFailed, match=problem):
                await call.toolset.check()
    async with mesh_for(Guard) as mesh:
        [shared] = mesh.mesh.get(BoundAgents)["guard"].toolsets
        assert "[tools.firewall.nftables] of mesh.toml sets no chain" in shared.status
        assert (await shared.toolset.check()).startswith("no tools: ")


@pytest.mark.parametrize("wrong", [{"ports": ["icmp/1"]}, {"sources": ["home"]}, {"chain": "filter; x"}])
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    [field] = wrong
    with pytest.raises(ConfigError, match=rf"\[tools.firewall\] nftables.{field}"):
        FirewallTools(ToolSettings(tables={"firewall": {"nftables": wrong}}))
