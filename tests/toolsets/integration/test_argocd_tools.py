"""The toolset `argocd` over a fake of Argo CD: state, plans, syncs and rollbacks, each at most once."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from meshwright import Agent, Capability
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.toolsets.argocd import ArgocdTools
from tests.support.fake_argocd import FIRST, REPO, SECOND, THIRD, TOKEN, FakeArgocd
from tests.support.fake_services import answering, cut_off
from tests.support.toolset_calls import Calls, calling

NEW = {"name": "wiki", "repo": "https://git.example.com/home/wiki", "path": "deploy", "namespace": "wiki"}


@pytest.fixture
async def argocd() -> AsyncIterator[FakeArgocd]:
    async with FakeArgocd() as argocd:
        yield argocd


@pytest.fixture
async def call(argocd: FakeArgocd) -> AsyncIterator[Calls]:
    async with calling(ArgocdTools, server=table(argocd)) as call:
        yield call


def table(argocd: FakeArgocd, **more: Any) -> dict[str, Any]:
    allowed = {
        "applications": ["shop", "wiki"],
        "repos": ["https://git.example.com/home/*"],
        "namespaces": ["*"],
    }
    return {"url": argocd.url, "token": TOKEN, **allowed, **more}


def changes(argocd: FakeArgocd) -> list[str]:
    return [asked for asked in argocd.asked if not asked.startswith("GET")]


async def test_applications_are_shown_with_what_is_not_well(call: Calls, argocd: FakeArgocd) -> None:
    [shop] = (await call("apps"))["apps"]
    assert (shop["app"], shop["sync"], shop["health"], shop["revision"]) == (
        "shop",
        "Synced",
        "Degraded",
        SECOND,
    )
    assert shop["source"] == f"{REPO} deploy"
    assert (await call("apps", project="other"))["apps"] == []
    app = await call("app", name="shop")
    assert [(item["kind"], item["health"], item["sync"]) for item in app["unwell"]] == [
        ("Deployment", "Degraded", "Synced"),
        ("ConfigMap", "", "OutOfSync"),
    ]
    assert (app["resources"], app["images"], app["operation"]["phase"]) == (3, ["shop:1"], "Succeeded")
    assert len(app["conditions"][0]) == 500
    assert [item["revision"] for item in await call("app_history", name="shop")] == [SECOND, FIRST]
    with pytest.raises(ToolFailed, match="there is no application 'barn'"):
        await call("app", name="barn")


async def test_a_diff_is_of_the_cluster_or_of_a_revision_without_secrets(
    call: Calls, argocd: FakeArgocd
) -> None:
    drift = (await call("app_diff", name="shop"))["diff"]
    assert '-  "replicas": 1' in drift and '+  "replicas": 2' in drift and "Deployment shop/shop" in drift
    plan = await call("app_diff", name="shop", revision="main")
    assert (plan["deployed"], plan["revision"]) == (SECOND, THIRD)
    assert '-  "replicas": 2' in plan["diff"] and '+  "replicas": 3' in plan["diff"]
    assert "hunter" not in json.dumps([drift, plan])
    with pytest.raises(ToolFailed, match="500: unable to resolve 'gone' to a commit SHA"):
        await call("app_diff", name="shop", revision="gone")


async def test_a_sync_begins_once_for_a_call(call: Calls, argocd: FakeArgocd) -> None:
    sync = {"name": "shop", "revision": THIRD, "step_id": "t1/7"}
    assert await call("sync_app", **sync) == {"started": True, "revision": THIRD}
    assert await call("sync_app", **sync) == {"started": False, "phase": "Running"}
    with pytest.raises(ToolFailed, match="another operation of shop is running"):
        await call("sync_app", **sync | {"step_id": "t2/7"})
    other = await call.check("sync_app", **sync | {"step_id": "t2/7"})
    assert (other.outcome, other.evidence) == ("unknown", "The last operation of shop is not of this call.")
    operation = argocd.apps["shop"]["operation"]
    argocd.finish("shop", operation["sync"], operation["info"])
    assert await call("sync_app", **sync) == {"started": False, "phase": "Succeeded"}
    assert changes(argocd) == ["POST /api/v1/applications/shop/sync"]


async def test_a_repeat_finds_the_sync_whose_answer_was_lost(call: Calls, argocd: FakeArgocd) -> None:
    async def lost(request: web.Request) -> web.StreamResponse:
        await argocd._sync(request)
        return await cut_off(request)

    argocd.faults_of_changes.append(lost)
    with pytest.raises(ToolFailed, match="It may have taken effect: read the state before"):
        await call("sync_app", name="shop", revision=THIRD)
    assert await call("sync_app", name="shop", revision=THIRD) == {"started": False, "phase": "Running"}
    assert len(changes(argocd)) == 1


async def test_a_rollback_begins_once(call: Calls, argocd: FakeArgocd) -> None:
    assert (await call("rollback_app", name="shop", id=0)) == {"started": True, "revision": FIRST}
    assert (await call("rollback_app", name="shop", id=0)) == {"started": False, "revision": FIRST}
    argocd.finish("shop", argocd.apps["shop"]["operation"]["sync"], [])
    assert (await call("rollback_app", name="shop", id=0)) == {"started": False, "revision": FIRST}
    assert changes(argocd) == ["POST /api/v1/applications/shop/rollback"]
    with pytest.raises(InvalidInput, match="shop has no 9 in its history"):
        await call("rollback_app", name="shop", id=9)


async def test_an_application_is_created_and_deleted_once(call: Calls, argocd: FakeArgocd) -> None:
    assert [await call("create_app", **NEW) for _ in range(2)] == [{"changed": True}, {"changed": False}]
    with pytest.raises(ToolFailed, match="there is another application 'wiki'"):
        await call("create_app", **NEW | {"path": "other"})
    deleted = [await call("delete_app", name="wiki", cascade=True) for _ in range(2)]
    assert deleted == [{"changed": True}, {"changed": False}]
    assert ("cascade", "true") in next(asked for asked in argocd.requests if asked.method == "DELETE").query
    assert [*argocd.apps] == ["shop"]


async def test_a_chart_is_deployed_by_its_whole_version(call: Calls, argocd: FakeArgocd) -> None:
    argocd.apps["shop"]["spec"]["source"] = {"repoURL": REPO, "chart": "shop", "targetRevision": "1.x"}
    for revision in ("1", "1.x", THIRD):
        with pytest.raises(InvalidInput, match="may soon be another"):
            await call("sync_app", name="shop", revision=revision)
    assert (await call("sync_app", name="shop", revision="v1.2.3-rc.1"))["started"]


async def test_several_sources_are_not_compared(call: Calls, argocd: FakeArgocd) -> None:
    spec = argocd.apps["shop"]["spec"]
    spec["sources"] = [spec.pop("source")]
    with pytest.raises(ToolFailed, match="shop has several sources"):
        await call("app_diff", name="shop", revision=THIRD)
    assert (await call("apps"))["apps"][0]["source"] == f"{REPO} deploy"


async def test_an_application_that_is_being_deleted_is_not_deleted_again(
    call: Calls, argocd: FakeArgocd
) -> None:
    argocd.apps["shop"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await call("delete_app", name="shop", cascade=True) == {"changed": False}
    assert changes(argocd) == []


@pytest.mark.parametrize(
    ("tool", "arguments", "problem"),
    [
        ("sync_app", {"name": "bank", "revision": THIRD}, "application 'bank' may not be changed"),
        ("sync_app", {"name": "../shop", "revision": THIRD}, "should match pattern"),
        ("sync_app", {"name": "shop", "revision": "--force"}, "should match pattern"),
        ("sync_app", {"name": "shop", "revision": "main"}, "main may soon be another commit"),
        ("sync_app", {"name": "shop", "revision": "v1.2.3"}, "v1.2.3 may soon be another commit"),
        ("sync_app", {"name": "shop", "revision": THIRD[:12]}, "may soon be another commit"),
        ("rollback_app", {"name": "bank", "id": 0}, "application 'bank' may not be changed"),
        ("delete_app", {"name": "bank", "cascade": False}, "application 'bank' may not be changed"),
        ("create_app", NEW | {"name": "bank"}, "application 'bank' may not be changed"),
        ("create_app", NEW | {"repo": "https://git.evil.com/home/wiki"}, "may not be deployed"),
        ("create_app", NEW | {"repo": "file:///etc"}, "should match pattern"),
        ("create_app", NEW | {"path": "../secrets"}, "leads out of the repository"),
    ],
)
async def test_a_change_that_is_not_allowed_is_refused(
    call: Calls, argocd: FakeArgocd, tool: str, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidInput, match=problem):
        await call(tool, **arguments)
    assert changes(argocd) == []


async def test_refusals_and_odd_answers_are_told(call: Calls, argocd: FakeArgocd) -> None:
    assert await call.toolset.check() == "server: all answer"
    argocd.faults.append(answering(200, "[]"))
    with pytest.raises(ToolFailed, match="does not answer as Argo CD does"):
        await call("apps")
    async with calling(ArgocdTools, server=table(argocd, token="wrong-token")) as stranger:
        with pytest.raises(ToolFailed, match="401: no session information"):
            await stranger("apps")


class Deployer(Agent):
    """Deploys."""

    agent_id = "deployer"
    capabilities = (Capability("deploy-service"),)
    toolsets = (ArgocdTools,)


async def test_a_person_sees_the_manifests_before_a_sync(argocd: FakeArgocd) -> None:
    model = ScriptedModel(
        tool_call("sync_app", name="shop", revision="main"),
        tool_call("sync_app", name="shop", revision=THIRD),
        "It is being deployed.",
    )
    async with mesh_for(Deployer, model=model, tools={"argocd": {"server": table(argocd)}}) as mesh:
        receipt = await mesh.submit(agent_id="deployer", payload={"text": "Deploy main."})
        [question] = await mesh.questions()
        effect = question.subject["effect"]
        assert (effect["deployed"], effect["revision"], effect["prune"]) == (SECOND, THIRD, False)
        assert '+  "replicas": 3' in effect["diff"] and changes(argocd) == []
        await mesh.answer(question, {"approve": True})
        assert (await mesh.outcome(receipt.task_id)).text == "It is being deployed."
    refused = str(model.requests[1].messages[-1].content)
    assert "main may soon be another commit" in refused and THIRD in refused
    assert changes(argocd) == ["POST /api/v1/applications/shop/sync"]
    [info] = argocd.apps["shop"]["operation"]["info"]
    assert info["name"] == "meshwright-step" and info["value"]
