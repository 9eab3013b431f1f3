"""Rules of a firewall that a mesh has set come back where it is killed before a person confirms them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from meshwright.testing import tool_call
from tests.support.killed_mesh import KilledMesh, killed_mesh
from tests.support.scripted_provider import ScriptedProvider
from tests.toolsets.unit.test_firewall_tools import SHUT, Namespace, etag, namespace

__all__ = ["killed_mesh", "namespace"]

pytestmark = pytest.mark.needs("nft", "nsenter", "unshare", "ip")
AGENT = "infra-manager"


async def set_rules(mesh: KilledMesh) -> tuple[str, Any]:
    """Have the agent set its rules, and approve that; the task, and the question whether they stay."""
    task = await mesh.running.client.submit(AGENT, "Shut it.", capability="firewall-management")
    [approval] = await mesh.questions()
    await mesh.approve()
    while (question := (await mesh.questions())[0]).wait_id == approval.wait_id:
        await asyncio.sleep(0.02)
    return task.task_id, question


@pytest.mark.parametrize(("seconds", "answers"), [(5, False), (300, True)])
async def test_rules_come_back_where_the_mesh_is_killed_before_they_are_confirmed(
    killed_mesh: Callable[[dict[str, str]], KilledMesh], namespace: Namespace, seconds: int, answers: bool
) -> None:
    call = tool_call("set_firewall_rules", rules=[SHUT], etag=await etag(namespace))
    table = namespace.settings(confirm_seconds=seconds)["nftables"]
    async with ScriptedProvider() as provider:
        provider.follow({AGENT: [call]})
        environment = {
            "LITELLM_BASE_URL": provider.url,
            "LITELLM_API_KEY": "sk-fake",
            "MESH_MODELS__ADAPTER": "http",
            "MESH_TOOLS__FIREWALL__NFTABLES": json.dumps(table),
        }
        async with killed_mesh(environment) as mesh:
            task_id, question = await set_rules(mesh)
            assert not namespace.can_connect(), "they hold already"
            await mesh.kill()
            if answers:
                [again] = await mesh.questions()
                assert again.wait_id == question.wait_id
                await mesh.running.client.answer(question, {"keep": False})
            assert (await mesh.running.outcome(task_id))["changed"]
    assert namespace.rules == []
    assert namespace.can_connect()
