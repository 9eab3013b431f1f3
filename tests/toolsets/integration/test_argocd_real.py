"""The toolset `argocd` and its agent over a real Argo CD; `make argocd` runs this. Nothing runs pods."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from meshwright.agents.tools.tool import ToolContext
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.toolsets.argocd import ArgocdTools
from tests.support.argocd_server import Argocd, running_argocd
from tests.support.shipped_agents import shipped
from tests.support.toolset_calls import Calls, Context, calling

pytestmark = [
    pytest.mark.soak("Argo CD takes ten minutes to build, and the fake is held to its published schema"),
    pytest.mark.needs("kubectl", "etcd", "openssl", "redis-server", "git", "go"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def argocd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Argocd]:
    with running_argocd(tmp_path_factory.mktemp("argocd")) as running:
        running.repository.commit(config_map("1"))
        yield running


@pytest.fixture
async def call(argocd: Argocd) -> AsyncIterator[Calls]:
    async with calling(ArgocdTools, server=table(argocd)) as call:
        yield call


def table(argocd: Argocd, **more: Any) -> dict[str, Any]:
    allowed = {"applications": ["shop-*"], "repos": [argocd.repository.url], "namespaces": ["web"]}
    return {"url": argocd.url, "token": argocd.token, **allowed, **more}


def config_map(value: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop"}, "data": {"v": value}}


def new(argocd: Argocd, name: str) -> dict[str, Any]:
    return {"name": name, "repo": argocd.repository.url, "path": "deploy", "namespace": "web"}


def live(argocd: Argocd) -> str:
    found = argocd.cluster.kubectl("get", "configmap", "shop", "-n", "web", "-o", "json")
    return json.loads(found.stdout)["data"]["v"]


async def until(asked: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await asked():
            await asyncio.sleep(0.1)  # Argo CD says nothing by itself to those who ask as the tools do


async def deployed(call: Calls, name: str) -> dict[str, Any]:
    """The application once its last operation has ended."""
    app: dict[str, Any] = {}

    async def has_ended() -> bool:
        app.update(await call("app", name=name))
        return app["operation"]["phase"] not in ("", "Running") and app["sync"] != ""

    await until(has_ended)
    return app


async def test_commits_are_deployed_compared_and_rolled_back(argocd: Argocd, call: Calls) -> None:
    name, repository = "shop-a", argocd.repository
    assert [await call("create_app", **new(argocd, name)) for _ in range(2)] == [
        {"changed": True},
        {"changed": False},
    ]
    with pytest.raises(ToolFailed, match="there is another application 'shop-a'"):
        await call("create_app", **new(argocd, name) | {"path": "other"})
    first = repository.git("rev-parse", "HEAD")
    assert (await call("app_diff", name=name, revision="HEAD"))["revision"] == first
    assert '+  "v": "1"' in (await call("app_diff", name=name))["diff"]
    sync = {"name": name, "revision": first}
    assert await call("sync_app", **sync) == {"started": True, "revision": first}
    app = await deployed(call, name)
    assert (app["revision"], app["resources"], live(argocd)) == (first, 1, "1")
    assert await call("sync_app", **sync) == {"started": False, "phase": "Succeeded"}
    second = repository.commit(config_map("2"))
    plan = await call("app_diff", name=name, revision="HEAD")
    assert (plan["deployed"], plan["revision"]) == (first, second)
    assert '-  "v": "1"' in plan["diff"] and '+  "v": "2"' in plan["diff"]
    for branch, remedy in (("HEAD", second), ("main", "the whole id of the commit")):
        with pytest.raises(InvalidInput, match="may soon be another commit"):
            await call("sync_app", name=name, revision=branch, step_id="t1/2")
        preview, context = call.tools["sync_app"].preview, cast(ToolContext, Context(step_id="t1/2"))
        with pytest.raises(InvalidInput) as refused:
            await preview(json.dumps({"name": name, "revision": branch}), context)
        assert remedy in refused.value.remedy
    assert live(argocd) == "1"
    assert (await call("sync_app", name=name, revision=second, step_id="t1/3"))["started"]
    assert (await deployed(call, name))["revision"] == second and live(argocd) == "2"
    [newest, oldest] = await call("app_history", name=name)
    assert (newest["revision"], oldest["revision"]) == (second, first)
    assert await call("rollback_app", name=name, id=oldest["id"]) == {"started": True, "revision": first}
    assert (await deployed(call, name))["revision"] == first and live(argocd) == "1"
    assert not (await call("rollback_app", name=name, id=oldest["id"]))["started"]
    with pytest.raises(InvalidInput, match="has no 99 in its history"):
        await call("rollback_app", name=name, id=99)
    with pytest.raises(ToolFailed, match="500: unable to resolve 'gone' to a commit SHA"):
        await call("app_diff", name=name, revision="gone")


async def test_what_is_deleted_with_all_it_deployed_is_going_until_that_is_gone(
    argocd: Argocd, call: Calls
) -> None:
    name = "shop-b"
    await call("create_app", **new(argocd, name))
    await call("sync_app", name=name, revision=argocd.repository.git("rev-parse", "HEAD"))
    await deployed(call, name)
    delete = {"name": name, "cascade": True}
    assert [(await call("delete_app", **delete))["changed"] for _ in range(2)] == [True, False]
    kubectl = argocd.cluster.kubectl

    async def is_gone() -> bool:  # the collector of garbage, which this cluster has not, is the test
        kubectl(
            "patch", "configmap", "shop", "-n", "web", "--type=merge", '-p={"metadata":{"finalizers":null}}'
        )
        return name not in [app["app"] for app in (await call("apps"))["apps"]]

    await until(is_gone)
    assert kubectl("get", "configmap", "shop", "-n", "web").returncode == 1
    assert await call("delete_app", **delete) == {"changed": False}


async def test_unknown_applications_and_wrong_tokens_are_told(argocd: Argocd, call: Calls) -> None:
    assert await call.toolset.check() == "server: all answer"
    assert (await call("apps", project="other"))["apps"] == []
    with pytest.raises(ToolFailed, match="there is no application 'barn'"):
        await call("app", name="barn")
    for token, problem in (
        ("wrong-token", "no session information"),
        (f"{argocd.token[:-8]}AAAAAAAA", "invalid session: token signature is invalid"),
    ):
        async with calling(ArgocdTools, server=table(argocd, token=token)) as stranger:
            with pytest.raises(ToolFailed, match=f"401: {problem}"):
                await stranger("apps")


@pytest.mark.parametrize("approve", [True, False])
async def test_the_agent_deploys_what_a_person_has_seen_and_approved(
    argocd: Argocd, call: Calls, approve: bool
) -> None:
    name = f"shop-{approve}".lower()
    await call("create_app", **new(argocd, name))
    commit = argocd.repository.commit(config_map(name))
    model = ScriptedModel(
        tool_call("app_diff", name=name, revision="HEAD"),
        tool_call("sync_app", name=name, revision=commit),
        "Done.",
    )
    tools = {"argocd": {"server": table(argocd)}}
    async with mesh_for(*shipped("argocd-deployer"), model=model, tools=tools) as mesh:
        task = await mesh.submit(agent_id="argocd-deployer", payload={"text": "Deploy HEAD."})
        [question] = await mesh.questions()
        effect = question.subject["effect"]
        assert (effect["deployed"], effect["revision"], effect["prune"]) == ("", commit, False)
        assert f'+  "v": "{name}"' in effect["diff"]
        await mesh.answer(question, {"approve": approve})
        assert (await mesh.outcome(task.task_id)).text == "Done."
    if approve:
        assert (await deployed(call, name))["revision"] == commit and live(argocd) == name
    else:
        assert await call("app_history", name=name) == []
