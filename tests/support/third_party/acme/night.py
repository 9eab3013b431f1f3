"""Acme's second component, which brings prompts, memories, a wrapper of the model, a sign-in and pages."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from meshwright import ToolFailed
from meshwright.component import (
    KEY_ROLES,
    Caller,
    Component,
    Credentials,
    MemoryItem,
    MemoryKind,
    Mesh,
    Model,
    ModelPosition,
    ModelReply,
    ModelRequest,
    ModelWrapper,
    OnDelta,
    Pages,
    Prompt,
    PromptContext,
    Wrapper,
    parse_prompt,
)
from meshwright.tools import ToolCallWrapper, ToolInvocation, ToolLink

if TYPE_CHECKING:
    from fastapi import APIRouter

TEXTS = {"night-shift": "---\ntags: [default]\n---\nYou watch at night.\n"}


class NightPrompts:
    """The prompts of agents that work at night."""

    def resolve(self, name: str, context: PromptContext) -> Prompt | None:
        """Another text for each tenant, say: `context` has tenant, agent, task and thread."""
        return parse_prompt(name, TEXTS[name].encode()) if name in TEXTS else None

    def names(self) -> list[str]:
        """All of them."""
        return list(TEXTS)

    def reload(self) -> list[str]:
        """They never change."""
        return []


class Notebook:
    """Memories, newest first, until the process ends."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], MemoryItem] = {}

    async def remember(self, item: MemoryItem) -> bool:
        """Add a memory."""
        return self.items.setdefault((item.tenant_id, item.memory_id), item) is item

    async def recall(
        self,
        query: str,
        *,
        tenant_id: str,
        scopes: Sequence[tuple[str, str]],
        max_tokens: int,
        limit: int = 20,
        kind: MemoryKind | None = None,
        floor: float = 0.0,
    ) -> list[MemoryItem]:
        """The newest, whatever the query is."""
        found = [item for item in self.items.values() if (item.scope, item.scope_id) in scopes]
        return [item for item in found if item.tenant_id == tenant_id][: -limit - 1 : -1]

    async def forget(self, memory_id: str, tenant_id: str) -> bool:
        """Delete one."""
        return self.items.pop((tenant_id, memory_id), None) is not None

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> int:
        """Delete what tasks remembered."""
        old = [key for key, item in self.items.items() if key[0] == tenant_id and item.task_id in task_ids]
        return sum(self.items.pop(key, None) is not None for key in old)


class Counted(Wrapper):
    """Counts what passes a position of the chain."""

    def __init__(self, model: Model, position: ModelPosition, passed: Counter[str]) -> None:
        super().__init__(model)
        self.position = position
        self.passed = passed

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Count a request, and pass it on."""
        self.passed[self.position] += 1
        return await self.model.complete(request, on_delta)


class Refusal(ToolLink):
    """Refuses calls of tools that are forbidden."""

    async def call(self, call: ToolInvocation) -> dict[str, Any]:
        """Refuse a call, or pass it on."""
        if "forbidden" in call.arguments:
            raise ToolFailed(f"{call.context.agent_id} may not do that")
        return await self.inner.call(call)


class Cookies:
    """Knows callers by the cookie that POST /night/session has set."""

    headers: Collection[str] = ("cookie",)

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}

    def open(self, name: str) -> str:
        """Open a session, and return the value of its cookie."""
        value = secrets.token_urlsafe(32)
        self.callers[value] = Caller(tenant_id="acme", requested_by=name, roles=frozenset(KEY_ROLES))
        return value

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """The caller of a session. A token that is shown counts in its place."""
        return None if credentials.token else self.callers.get(credentials.cookie("night"))


class Night(Component):
    """The night shift."""

    name = "night"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.notebook, self.cookies = Notebook(), Cookies()
        self.passed: Counter[str] = Counter()

    def prompt_source(self) -> NightPrompts:
        """Asked before the prompts folder."""
        return NightPrompts()

    def memory_store(self) -> Notebook:
        """In place of the mesh's own."""
        return self.notebook

    def model_wrappers(self) -> Iterable[ModelWrapper]:
        """Counts requests of agents, and attempts at the provider."""
        for position in ("request", "attempt"):
            yield ModelWrapper(position, partial(Counted, position=position, passed=self.passed))

    def tool_wrappers(self) -> Iterable[ToolCallWrapper]:
        """Refuses what is forbidden, each time that it would be executed."""
        return [ToolCallWrapper("check", Refusal)]

    def authenticator(self) -> Cookies:
        """Asked before keys."""
        return self.cookies

    def pages(self) -> Iterable[Pages]:
        """One for everybody, and one behind the sign-in."""
        yield Pages("/night", self.folder("web"), is_open=True)
        yield Pages("/night/inside", self.folder("inside"))

    def routes(self) -> list[APIRouter]:
        """The sign-in, and what was counted."""
        from acme.routes import night_routes

        return night_routes(self)
