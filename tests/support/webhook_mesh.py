"""A mesh that takes webhooks of GitHub, and what is delivered to it."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshwright.engine.events.filter import EventFilter
from tests.support.http_mesh import Api, http_mesh

SECRET = "the secret that GitHub knows"
WHSEC = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
PATIENCE_SECONDS = 60
RULE: dict[str, Any] = {
    "source": "github",
    "match": {"event": "issues", "action": "opened"},
    "agent": "echo",
    "text": "Fix #{{issue.number}}: {{issue.title}}",
    "thread": "{{repository.full_name}}#{{issue.number}}",
    "budget_usd": "0.50",
}


def issue(**changes: Any) -> dict[str, Any]:
    return {
        "action": "opened",
        "issue": {"number": 7, "title": "It is broken"},
        "repository": {"full_name": "acme/api"},
        "sender": {"login": "ada"},
    } | changes


def webhooks(*rules: dict[str, Any], source: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Settings of a source and its rules."""
    github = {"kind": "github", "secret": SECRET, **(source or {})}
    return {"sources": {"github": github}, "rules": rules or (RULE,), **settings}


@asynccontextmanager
async def receiving(folder: Path, *rules: dict[str, Any], **settings: Any) -> AsyncIterator[Api]:
    """A mesh with these rules."""
    async with http_mesh(folder, webhooks=webhooks(*rules, **settings)) as api:
        yield api


async def deliver(
    api: Api,
    document: Any,
    delivery: str = "d-1",
    event: str = "issues",
    secret: str = SECRET,
    **headers: str,
) -> tuple[int, Any]:
    """Deliver something, signed as GitHub does."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    sent = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.call("POST", "/webhooks/github", data=body, headers=sent)


async def events(api: Api, **wanted: Any) -> list[dict[str, Any]]:
    """The events that agree."""
    found = await api.mesh.log.query(EventFilter(**wanted, limit=1000))
    return [event.model_dump(mode="json") for event in found]


async def event(api: Api, event_type: str) -> dict[str, Any]:
    """The first event of a type, once there is one."""
    tail = api.mesh.log.tail(EventFilter(event_type=event_type, after_seq=0))
    found = await asyncio.wait_for(anext(tail), PATIENCE_SECONDS)
    await tail.aclose()
    return found.model_dump(mode="json")


async def until(holds: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.01)
