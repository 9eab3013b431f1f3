"""Errors of providers and servers, by the bodies that they were seen to send, are taken for what they are."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.errors import (
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
    Unsupported,
)
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_adapters import KEY, request

KINDS: dict[str, type[ModelError]] = {
    "context": ContextTooLong,
    "key": Unauthorized,
    "rate": RateLimited,
    "overloaded": ModelUnavailable,
    "policy": ContentRefused,
    "tools": Unsupported,
    **dict.fromkeys(("quota", "model", "schema", "limit", "tags"), ModelRefused),
}
ANSWERED = {"quota": 402, "model": 404}
"""Statuses that a refusal counts as, whatever its own: a person, or another deployment, may mend these."""
BODIES = tomllib.loads((Path(__file__).parents[2] / "support" / "error_bodies.toml").read_text())["body"]
NAMES = [f"{number} {body['of']} {body['kind']}" for number, body in enumerate(BODIES)]


def test_the_table_is_of_many_providers_and_kinds_each_with_its_source() -> None:
    assert len({body["of"] for body in BODIES}) >= 20
    assert {body["kind"] for body in BODIES} == {*KINDS}
    assert all(body["source"] and json.loads(body["json"]) for body in BODIES)


async def error_of(fake: FakeProvider, fault: Fault) -> ModelError:
    model = HttpModel(fake.url, KEY)
    fake.faults.append(fault)
    with pytest.raises(ModelError) as failed:
        await model.complete(request(), [].append)
    await model.close()
    return failed.value


@pytest.mark.parametrize("body", BODIES, ids=NAMES)
async def test_an_error_is_taken_for_what_its_provider_means(
    fake: FakeProvider, body: dict[str, Any]
) -> None:
    kind, status = body["kind"], body["status"]
    error = await error_of(fake, Fault(status=status, body=json.loads(body["json"])))
    assert type(error) is KINDS[kind], str(error)
    assert error.answered == ANSWERED.get(kind, status)
    assert error.retry_after_seconds == body.get("wait")
    if kind == "tools":
        assert isinstance(error, Unsupported) and error.what == "tools"


FULL = [(name, body) for name, body in zip(NAMES, BODIES, strict=True) if name.endswith(("context", "quota"))]
MARKED = [(name, body) for name, body in FULL if '"error"' in body["json"]]


@pytest.mark.parametrize("body", [body for _, body in MARKED], ids=[name for name, _ in MARKED])
async def test_an_error_within_a_stream_is_taken_for_the_same(
    fake: FakeProvider, body: dict[str, Any]
) -> None:
    error = await error_of(fake, Fault(kind="error", body=json.loads(body["json"])))
    assert type(error) is KINDS[body["kind"]] and error.reason, str(error)


async def test_words_of_the_provider_behind_a_gateway_are_shown(fake: FakeProvider) -> None:
    raw = json.dumps({"error": {"message": "tool call ids must be 9 letters", "type": "bad"}})
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}}
    error = await error_of(fake, Fault(status=400, body=body))
    assert "Provider returned error" in str(error) and "tool call ids must be 9 letters" in str(error)
