"""The MCP server for Kubernetes, over a real API server; `make kube` runs this."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.loader import BoundAgents
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.kube_cluster import Cluster, running_cluster
from tests.support.services import unavailable

pytestmark = [
    pytest.mark.soak("the API server takes minutes to build"),
    pytest.mark.needs("kubectl", "etcd", "openssl"),
]
INSTALL = Path(__file__).parents[2] / "support" / "mcp" / "install"
NAME = "kubernetes-mcp-server-linux-amd64"
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "menu", "namespace": "default"},
    "data": {"dish": "soup"},
}


class Operator(Agent):
    """Looks after a cluster."""

    agent_id = "operator"
    capabilities = (Capability("operating"),)
    prompt_text = "You operate."
    remembers = False
    toolsets = ("mcp.cluster",)


@pytest.fixture(scope="module")
def program() -> Path:
    """The server; skips where it is not installed."""
    asked = subprocess.run(
        [sys.executable, INSTALL, "kube", "--where"], capture_output=True, text=True, check=False
    )
    if asked.returncode or platform.machine() != "x86_64":
        unavailable("needs the MCP server for Kubernetes, which make kube installs")
    return Path(asked.stdout.strip()) / "node_modules" / NAME / "bin" / NAME


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("kube")) as running:
        yield running


async def started(mesh: MeshUnderTest) -> set[str]:
    """The tools of the agent, once the server has started."""
    bound = mesh.mesh.get(BoundAgents)["operator"]
    [shared] = bound.toolsets
    while shared.state in ("idle", "starting"):
        await shared.use()
    assert shared.status.startswith("ready"), shared.status
    return {*bound.tools}


async def test_cluster_is_read_and_changed_with_an_approval(
    tmp_path: Path, program: Path, cluster: Cluster
) -> None:
    place = {"apiVersion": "v1", "kind": "ConfigMap", "name": "menu", "namespace": "default"}
    model = ScriptedModel(
        tool_call("cluster_namespaces_list"),
        tool_call("cluster_resources_create_or_update", resource=json.dumps(CONFIG_MAP)),
        tool_call("cluster_resources_get", **place),
        tool_call("cluster_resources_get", **{**place, "name": "no-such"}),
        "Done.",
    )
    table = {
        "command": str(program),
        "args": ["--kubeconfig", str(cluster.kubeconfig)],
        "tools": ["namespaces_list", "resources_*"],
    }
    tables: dict[str, Any] = {"cluster": table}
    async with mesh_for(Operator, model=model, project=tmp_path, mcp=tables) as mesh:
        offered = await started(mesh)
        receipt = await mesh.submit(agent_id="operator", payload={"text": "Go."})
        [question] = await mesh.questions()
        assert (question.subject or {})["tool"] == "cluster_resources_create_or_update"
        assert cluster.kubectl("get", "configmap", "menu").returncode, "nothing is made before the approval"
        await mesh.answer(question, {"approve": True})
        await mesh.outcome(receipt.task_id)
    assert not {name for name in offered if "exec" in name or "pods_run" in name}
    listed, made, read, missing = [
        message.text for message in model.requests[-1].messages if message.role == "tool"
    ]
    assert "kube-system" in listed and "menu" in made and "dish: soup" in read
    assert "not found" in missing
    found = json.loads(cluster.kubectl("get", "configmap", "menu", "-o", "json").stdout)
    assert found["data"] == {"dish": "soup"}
