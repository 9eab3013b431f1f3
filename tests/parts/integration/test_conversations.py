"""OpenAI's conversations by the official SDK: threads of the mesh that clients make, add to and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from meshwright import Agent, Capability, Client, Run
from meshwright.parts.conversations import table
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh_up

ADMIN = "admin-token-of-the-tests-0123456789"
AGENT = """
from meshwright import Agent, Capability, Run


class Plain(Agent):
    agent_id = "plain"
    capabilities = (Capability("answering"),)

    async def run(self, run: Run) -> str:
        return f"heard {run.task.text}"
"""


class Plain(Agent):
    """Repeats."""

    agent_id = "plain"
    capabilities = (Capability("answering"),)

    async def run(self, run: Run) -> str:
        return f"heard {run.task.text}"


class Writer(Agent):
    """Has a model write."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    prompt_text = "You write."


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Plain) as made:
        yield made


def client_of(url: str, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def text(item: Any) -> tuple[str, str]:
    return item.role, item.content[0].text


async def test_conversation_is_made_changed_and_deleted(api: Api) -> None:
    async with client_of(api.url) as client:
        made = await client.conversations.create(metadata={"topic": "tea"})
        assert made.id.startswith("conv_") and made.object == "conversation"
        assert await client.conversations.retrieve(made.id) == made
        changed = await client.conversations.update(made.id, metadata={"topic": "coffee"})
        assert changed.metadata == {"topic": "coffee"} and changed.created_at == made.created_at
        deleted = await client.conversations.delete(made.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
        for call in (client.conversations.retrieve(made.id), client.conversations.delete(made.id)):
            with pytest.raises(openai.NotFoundError) as unknown:
                await call
            assert unknown.value.code == "conversation_not_found"


async def test_items_are_those_added_and_those_of_tasks(api: Api) -> None:
    async with client_of(api.url) as client:
        first: Any = {"type": "message", "role": "user", "content": "Hello"}
        made = await client.conversations.create(items=[first])
        content: Any = [{"type": "output_text", "text": "Hi", "annotations": []}]
        items = client.conversations.items
        added = await items.create(
            made.id, items=[{"type": "message", "role": "assistant", "content": content}]
        )
        reply = await client.responses.create(model="agent/plain", input="tea", conversation=made.id)
        assert reply.conversation is not None and reply.conversation.id == made.id
        said = [("user", "Hello"), ("assistant", "Hi"), ("user", "tea"), ("assistant", "heard tea")]
        assert [text(item) async for item in items.list(made.id, order="asc", limit=1)] == said
        page = await items.list(made.id, limit=3)
        assert [text(item) for item in page.data] == said[:0:-1] and page.has_more
        assert page.data[0].id == reply.output[0].id
        rest = await items.list(made.id, limit=3, after=page.data[-1].id)
        assert [text(item) for item in rest.data] == said[:1] and not rest.has_more
        one = await items.retrieve(added.data[0].id, conversation_id=made.id)
        assert text(one) == ("assistant", "Hi")
        assert (await items.delete(one.id or "", conversation_id=made.id)).id == made.id
        assert [text(item) async for item in items.list(made.id, order="asc")] == [said[0], *said[2:]]
        with pytest.raises(openai.PermissionDeniedError):
            await items.delete(page.data[0].id or "", conversation_id=made.id)
        for call in (
            items.retrieve("msg_x", conversation_id=made.id),
            items.delete("x", conversation_id=made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
        with pytest.raises(openai.NotFoundError):
            await items.list(made.id, after="nothing")


async def test_agents_get_what_was_added(tmp_path: Path) -> None:
    model = ScriptedModel("One", "Two")
    async with http_mesh(tmp_path, Writer, script=model) as api, client_of(api.url) as client:
        item: Any = {"type": "message", "role": "user", "content": "My name is Ada"}
        made = await client.conversations.create(
            items=[item, {**item, "role": "developer", "content": "Be brief"}]
        )
        gone = await client.conversations.items.create(made.id, items=[{**item, "content": "a secret"}])
        await client.conversations.items.delete(gone.data[0].id or "", conversation_id=made.id)
        for words in ("Who am I?", "And now?"):
            await client.responses.create(model="agent/writer", input=words, conversation=made.id)
        first, second = (" | ".join(one.content for one in request.messages) for request in model.requests)
    assert "My name is Ada" in first and "[developer] Be brief" in first and "secret" not in first
    assert "My name is Ada" in second and "Who am I?" in second and "One" in second


async def test_what_was_added_is_erased_with_the_tasks(tmp_path: Path) -> None:
    model = ScriptedModel("One", "Two")
    item: Any = {"type": "message", "role": "user", "content": "My name is Ada"}
    async with (
        http_mesh(tmp_path, Writer, script=model, admin_token=ADMIN) as api,
        Client(api.url, ADMIN) as admin,
        client_of(api.url, ADMIN) as client,
    ):
        made = await client.conversations.create(items=[item])
        other = await client.conversations.create(items=[item])
        await client.responses.create(model="agent/writer", input="Who am I?", conversation=made.id)
        await admin.erase(thread_id=made.id)
        assert [text(one) async for one in client.conversations.items.list(other.id)] == [
            ("user", "My name is Ada")
        ]
        left = [text(one) async for one in client.conversations.items.list(made.id)]
        await client.responses.create(model="agent/writer", input="And now?", conversation=made.id)
    assert "Ada" in str(model.requests[0].messages) and "Ada" not in str(left)
    assert "Ada" not in str(model.requests[1].messages)


async def test_bad_input_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(api.url) as client:
        made = await client.conversations.create()
        message: Any = {"type": "message", "role": "user", "content": "x"}
        wrong: list[dict[str, Any]] = [
            {"items": [message] * 21},
            {"items": [{**message, "role": "robot"}]},
            {"items": [{"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}]},
            {"items": [{**message, "content": "x" * 65_537}]},
            {"items": [{**message, "content": [{"type": "input_image", "image_url": "http://x"}]}]},
            {"metadata": {"k" * 65: "v"}},
            {"metadata": {"k": "v" * 513}},
            {"metadata": {str(number): "v" for number in range(17)}},
            {"metadata": {"k": 1}},
        ]
        for fields in wrong:
            with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
                await client.conversations.create(**fields)
        with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
            await client.conversations.items.create(made.id, items=[])
        with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
            await client.conversations.items.list(made.id, limit=101)
        monkeypatch.setattr(table, "MAX_ITEMS", 3)
        monkeypatch.setattr(table, "MAX_CONVERSATIONS", 2)
        await client.conversations.items.create(made.id, items=[message] * 3)
        with pytest.raises(openai.APIStatusError) as full:
            await client.conversations.items.create(made.id, items=[message])
        await client.conversations.create()
        with pytest.raises(openai.APIStatusError) as too_many:
            await client.conversations.create()
        assert (full.value.status_code, too_many.value.status_code) == (413, 413)


async def test_conversations_are_of_one_caller(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Plain, admin_token=ADMIN) as api, Client(api.url, ADMIN) as admin:
        keys = {
            name: (await admin.create_key(name=name, tenant_id=tenant, roles=roles)).key
            for name, tenant, roles in (
                ("ada", "acme", ["submitter"]),
                ("eve", "acme", ["submitter", "contents"]),
                ("bob", "other", ["submitter", "viewer", "contents", "operator"]),
            )
        }
        item: Any = {"type": "message", "role": "user", "content": "Hello"}
        async with client_of(api.url, keys["ada"]) as client:
            made = await client.conversations.create(items=[item])
        for name in ("eve", "bob"):
            async with client_of(api.url, keys[name]) as client:
                conversations = client.conversations
                for call in (
                    conversations.retrieve(made.id),
                    conversations.update(made.id, metadata={}),
                    conversations.delete(made.id),
                    conversations.items.create(made.id, items=[item]),
                ):
                    with pytest.raises(openai.NotFoundError):
                        await call
                with pytest.raises(openai.NotFoundError):
                    await conversations.items.list(made.id)


async def test_conversation_outlives_kill_9(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/plain.py").write_text(AGENT)
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_MODELS__ADAPTER": "offline"}
    item: Any = {"type": "message", "role": "user", "content": "Hello"}
    async with mesh_up(tmp_path / "data", **environment) as mesh:
        async with client_of(mesh.url) as client:
            made = await client.conversations.create(items=[item], metadata={"k": "v"})
            await client.responses.create(model="agent/plain", input="tea", conversation=made.id)
        await mesh.kill()
    async with mesh_up(tmp_path / "data", **environment) as mesh, client_of(mesh.url) as client:
        assert await client.conversations.retrieve(made.id) == made
        listed = [text(one) async for one in client.conversations.items.list(made.id, order="asc")]
    assert listed == [("user", "Hello"), ("user", "tea"), ("assistant", "heard tea")]
