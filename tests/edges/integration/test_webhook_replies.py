"""Outcomes of webhooks that go back over real sockets: comments and commit statuses, once each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright import Agent, Capability, Run, ToolFailed
from meshwright.edges.webhooks.kinds import MARKER
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.fake_forge import FakeForge
from tests.support.http_mesh import Api, http_mesh
from tests.support.webhook_mesh import RULE, SECRET, deliver, event, events, issue, receiving, until, webhooks


def replying(forge: FakeForge, kind: str = "github", **rule: Any) -> dict[str, Any]:
    source = {"kind": kind, "token": "ghp_token-of-the-test", "api_url": forge.url}
    return {"source": source, "rule": RULE | {"reply": "comment"} | rule}


@asynccontextmanager
async def posting(folder: Path, forge: FakeForge, **rule: Any) -> AsyncIterator[Api]:
    chosen = replying(forge, **rule)
    async with receiving(folder, chosen["rule"], source=chosen["source"]) as api:
        yield api


async def test_outcome_is_a_comment_with_a_hidden_marker(tmp_path: Path) -> None:
    async with FakeForge() as forge, posting(tmp_path, forge) as api:
        [task_id] = (await deliver(api, issue()))[1]["tasks"]
        call = await forge.posted()
    assert call.path == "/repos/acme/api/issues/7/comments"
    said, _, line = call.body["body"].rpartition("\n\n")
    assert said == "you said: Fix #7: It is broken" and line.startswith(f"{MARKER}task {task_id} text=")
    assert call.headers["Authorization"] == "Bearer ghp_token-of-the-test"
    assert (call.headers["Accept"], call.headers["X-GitHub-Api-Version"]) == (
        "application/vnd.github+json",
        "2022-11-28",
    )


class Broken(Agent):
    """Fails with what it should not have said."""

    agent_id = "broken"
    capabilities = (Capability("breaking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise ToolFailed("the password is hunter2")


async def test_failed_task_says_no_more_than_its_error(tmp_path: Path) -> None:
    rule = {"agent": "broken", "reply": "comment"}
    async with FakeForge() as forge:
        chosen = replying(forge, **rule)
        settings = webhooks(chosen["rule"], source=chosen["source"])
        async with http_mesh(tmp_path, Broken, webhooks=settings) as api:
            await deliver(api, issue())
            text = (await forge.posted()).body["body"]
    assert text.startswith("The task failed (ToolFailed).") and "hunter2" not in text


def limited(status: int, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    message = (
        "You have exceeded a secondary rate limit." if "secondary" in named else "API rate limit exceeded"
    )
    return web.json_response({"message": message}, status=status, headers=named)


async def test_comment_is_posted_once_through_limits_and_outages(tmp_path: Path) -> None:
    async with FakeForge() as forge, posting(tmp_path, forge) as api:
        forge.answers = [
            limited(403, Retry_After="1"),
            web.Response(status=502),
            None,
            web.Response(status=500),
        ]
        await deliver(api, issue())
        await forge.posted()
        delayed = await event(api, "reply.delayed")
    assert "answered 403" in delayed["payload"]["reason"]
    [comments] = forge.comments.values()
    assert len(comments) == 1


async def test_comment_that_was_posted_before_a_crash_is_found(tmp_path: Path) -> None:
    async with FakeForge() as forge, posting(tmp_path, forge) as api:
        forge.lost = 1
        await deliver(api, issue())
        await forge.posted()
        await until(lambda: sum(call.method == "GET" for call in forge.calls) == 2)
    [comments] = forge.comments.values()
    assert len(comments) == 1
    assert "since" in forge.calls[0].query


async def test_lines_of_an_outcome_are_no_commands_of_gitlab(tmp_path: Path) -> None:
    title = "x\n/merge\n \t/close\n\r/label ~a\n1/2 @all, @allen"
    project = {"path_with_namespace": "group/app"}
    document = {"object_kind": "issue", "object_attributes": {"iid": 3, "title": title}, "project": project}
    rule = {"match": {"event": "Issue Hook"}, "thread": None, "text": "{{object_attributes.title}}"}
    headers = {"X_Gitlab_Token": SECRET, "X_Gitlab_Event": "Issue Hook", "Idempotency_Key": "k-1"}
    async with FakeForge() as forge, posting(tmp_path, forge, kind="gitlab", **rule) as api:
        await deliver(api, document, **headers)
        text = (await forge.posted()).body["body"].partition("\n\n<!--")[0]
    said = "you said: x\n\\/merge\n \t\\/close\n\r\\/label ~a\n1/2 @\u200ball, @allen"
    assert text == said


async def test_gitlab_gets_a_note_and_its_second_page_is_read(tmp_path: Path) -> None:
    document = {
        "object_kind": "merge_request",
        "object_attributes": {"iid": 3, "action": "open"},
        "project": {"path_with_namespace": "group/sub/app"},
    }
    match = {"event": "Merge Request Hook"}
    headers = {"X_Gitlab_Token": SECRET, "X_Gitlab_Event": "Merge Request Hook", "Idempotency_Key": "k-1"}
    async with FakeForge() as forge, posting(tmp_path, forge, kind="gitlab", match=match, thread=None) as api:
        path = "/projects/group%2Fsub%2Fapp/merge_requests/3/notes"
        forge.comments[path] = [
            {"body": "x", "created_at": "2999-01-01T00:00:00Z", "system": True} for _ in range(150)
        ]
        [task_id] = (await deliver(api, document, **headers))[1]["tasks"]
        call = await forge.posted()
        assert (call.path, call.headers["PRIVATE-TOKEN"]) == (path, "ghp_token-of-the-test")
        pages = [called.query["page"] for called in forge.calls if called.method == "GET"]
        assert pages == ["1", "2"]
        assert (await deliver(api, document, **headers))[1]["tasks"] == [task_id]
    assert forge.calls[-1].method == "POST"


async def test_outcome_is_a_status_of_the_commit(tmp_path: Path) -> None:
    pushed = {"after": "a" * 40, "repository": {"full_name": "acme/api"}}
    async with (
        FakeForge() as forge,
        posting(tmp_path, forge, match={}, reply="status", text="x" * 300) as api,
    ):
        await deliver(api, pushed, event="push")
        call = await forge.posted()
    assert call.path == f"/repos/acme/api/statuses/{'a' * 40}"
    assert (call.body["state"], call.body["context"]) == ("success", "meshwright/echo")
    assert len(call.body["description"]) == 140


async def test_status_that_a_commit_has_already_is_enough(tmp_path: Path) -> None:
    pushed = {"checkout_sha": "b" * 40, "project": {"path_with_namespace": "group/app"}}
    headers = {"X_Gitlab_Token": SECRET, "X_Gitlab_Event": "Push Hook", "Idempotency_Key": "k-1"}
    rule = {"match": {}, "reply": "status", "thread": None}
    async with FakeForge() as forge, posting(tmp_path, forge, kind="gitlab", **rule) as api:
        said = {"message": "Cannot transition status via :succeed from :success"}
        forge.answers = [web.json_response(said, status=400)]
        [task_id] = (await deliver(api, pushed, **headers))[1]["tasks"]
        await api.mesh.get(Tasks).outcome(task_id)
        await until(lambda: forge.calls)
        assert (await deliver(api, pushed, **headers | {"Idempotency_Key": "k-2"}))[0] == 202
        call = await forge.posted()
        assert not await events(api, event_type="reply.delayed")
    assert call.path == f"/projects/group%2Fapp/statuses/{'b' * 40}"
    assert call.body == {"state": "success", "name": "meshwright/echo", "description": "you said: Fix #:"}


@pytest.mark.parametrize("status", [404, 410, 422])
async def test_comment_that_is_refused_for_good_is_dropped(tmp_path: Path, status: int) -> None:
    async with FakeForge() as forge, posting(tmp_path, forge) as api:
        forge.answers = [None, web.Response(status=status)]
        await deliver(api, issue())
        dropped = await event(api, "reply.dropped")
    assert dropped["payload"] == {
        "scheme": "forge",
        "reason": f"github answered {status} to POST /repos/acme/api/issues/7/comments",
    }


async def test_delivery_without_an_issue_says_that_no_comment_follows(tmp_path: Path) -> None:
    async with FakeForge() as forge, posting(tmp_path, forge, match={}) as api:
        [task_id] = (await deliver(api, {"after": "a" * 40}, event="push"))[1]["tasks"]
        dropped = await event(api, "reply.dropped")
    assert (dropped["task_id"], "a comment" in dropped["payload"]["reason"]) == (task_id, True)


async def test_renamed_repository_is_followed_on_the_same_server_alone(tmp_path: Path) -> None:
    async with FakeForge() as forge, FakeForge() as elsewhere, posting(tmp_path, forge) as api:
        moved = {"Location": f"{forge.url}/repositories/1/issues/7/comments"}
        forge.answers = [None, web.Response(status=307, headers=moved)]
        await deliver(api, issue())
        assert (await forge.posted()).path == "/repositories/1/issues/7/comments"
        forge.answers = [None, web.Response(status=307, headers={"Location": elsewhere.url})]
        await deliver(api, issue(), "d-2")
        assert "307" in (await event(api, "reply.delayed"))["payload"]["reason"]
    assert not elsewhere.calls, "the token would have gone with it"
