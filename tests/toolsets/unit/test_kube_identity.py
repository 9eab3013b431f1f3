"""An approval of a manifest holds for the very cluster that was shown; kubectl is a fake."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.toolsets.kube_changes import KubeTools

MANIFEST = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: colours}\ndata: {sky: blue}\n"
FAKE = """#!/bin/sh
for last; do :; done
case "$*" in
  *api-resources*) echo "configmaps cm v1 true ConfigMap";;
  *"get namespaces kube-system"*)
    case "$(cat cluster)" in
      nobody*) echo 'Error from server (Forbidden): namespaces "kube-system" is forbidden' >&2; exit 1;;
      away*) echo 'Unable to connect to the server' >&2; exit 1;;
    esac
    printf '{"metadata": {"uid": "%s"}}' "$(cat cluster)";;
  *"config view --minify"*) printf '{"clusters": [{"cluster": {"server": "%s"}}]}' "$(cat cluster)";;
  *--dry-run=server*) cat "${last#--filename=}";;
  *" apply "*) echo "$(cat cluster)" >> applied; cat "${last#--filename=}";;
esac
"""


class Deployer(Agent):
    """Deploys with approval."""

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)
    toolsets = (KubeTools,)
    remembers = False


async def applied(folder: Path, shown: str, meant: str) -> tuple[Any, str, list[str]]:
    """The effect that a person approves of one cluster, the tool's result, and where it was applied.

    The kubeconfig names another cluster since it was shown.
    """
    program, cluster, trace = folder / "kubectl", folder / "cluster", folder / "applied"
    program.write_text(FAKE.replace("cat cluster", f"cat {cluster}").replace(">> applied", f">> {trace}"))
    program.chmod(0o755)
    cluster.write_text(shown)
    table = {"kubeconfig": "/nowhere", "contexts": ["prod"], "namespaces": ["web"], "program": str(program)}
    model = ScriptedModel(tool_call("kube_apply", manifest=MANIFEST), "It is done, or not.")
    async with mesh_for(Deployer, model=model, kube={"default": table}) as mesh:
        task = await mesh.submit(agent_id="deployer", payload={"text": "Deploy it."})
        [question] = await mesh.questions() or [None]
        cluster.write_text(meant)
        if question is not None:
            await mesh.answer(question, {"approve": True})
        await mesh.outcome(task.task_id)
    [result] = [message.content for message in model.requests[-1].messages if message.role == "tool"]
    places = trace.read_text().split() if trace.exists() else []
    return question and question.subject["effect"], result, places


@pytest.mark.parametrize(
    ("shown", "meant"), [("uid-1", "uid-2"), ("nobody@a", "nobody@b"), ("uid-1", "nobody@a")]
)
async def test_a_new_object_is_not_made_in_another_cluster(tmp_path: Path, shown: str, meant: str) -> None:
    effect, result, places = await applied(tmp_path, shown, meant)
    assert effect["objects"] == {"ConfigMap web/colours": {"uid": None, "state": "none"}}
    assert (effect["cluster"], effect["cluster_id"]) == ("prod", shown)
    assert "was not run: its effect is another" in result
    assert places == []


@pytest.mark.parametrize("cluster", ["uid-1", "nobody@a"])
async def test_a_new_object_is_made_in_the_cluster_that_was_shown(tmp_path: Path, cluster: str) -> None:
    _, result, places = await applied(tmp_path, cluster, cluster)
    assert json.loads(result)[0]["object"] == "ConfigMap web/colours"
    assert places == [cluster]


async def test_a_cluster_that_is_away_is_no_other_one(tmp_path: Path) -> None:
    _, result, places = await applied(tmp_path, "uid-1", "away")
    assert "Unable to connect" in result
    assert places == []
