"""What models cost, as programs get it over HTTP and people read it on a terminal."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from meshwright import Agent, Capability, Mesh, build_mesh, load_settings
from meshwright.api.server import serving
from meshwright.messages import Usage
from meshwright.models.port import ModelReply
from meshwright.testing import ScriptedModel


class Clerk(Agent):
    """Answers what its model says."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)


def reply(cost: str | None, **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=1200, completion_tokens=40, cached_tokens=1024)
    known = None if cost is None else Decimal(cost)
    return ModelReply(content="Done.", usage=usage, cost_usd=known, **{"model": "big", **fields})


@asynccontextmanager
async def spent(folder: Path) -> AsyncIterator[Mesh]:
    """A mesh that has called three models: at a price, at none that is known, and at none at all."""
    saved = {"cache_hit": True, "saved_usd": Decimal("0.25"), "cost_source": "priced"}
    replies = reply("0.25", cost_source="priced"), reply(None, model="odd"), reply("0", **saved)
    settings = load_settings(folder, listen_port=0)
    mesh = build_mesh(settings, project=folder, agents=[Clerk], model=ScriptedModel(*replies))
    async with mesh:
        for _ in replies:
            await mesh.ask("clerk", "Do it.")
        yield mesh


async def costs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "meshwright.cli", "costs", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


async def test_costs_are_the_same_over_http_and_on_the_command_line(tmp_path: Path) -> None:
    async with (
        spent(tmp_path) as mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        async with session.get("/costs", params={"by": "model", "since": "1h"}) as response:
            assert response.status == 200
            found = await response.json()
        told = await costs("--by", "model", "--json", "--url", server.url)
    stored = await costs("--by", "model", "--json", "--data", str(tmp_path / ".mesh"))
    assert json.loads(told.stdout) == json.loads(stored.stdout) == {**found, "since": None}
    big, odd = found["items"]
    assert (big["key"], big["calls"], big["cost_usd"], big["saved_usd"]) == ("big", 2, "0.25", "0.25")
    assert (odd["key"], odd["cost_usd"], odd["unpriced"]) == ("odd", None, 1)
    assert found["total"]["cost_usd"] == "0.25"


async def test_a_person_reads_a_table_in_which_nothing_unknown_is_free(tmp_path: Path) -> None:
    async with spent(tmp_path):
        pass
    told = await costs("--by", "model", "--data", str(tmp_path / ".mesh"))
    assert told.stdout.splitlines() == [
        "model  calls  prompt  cached  completion  cost                 saved by cache  failed",
        "big    2      2,400   2,048   80          $0.2500              $0.2500         0",
        "odd    1      1,200   1,024   40          $?                   $0              0",
        "total  3      3,600   3,072   120         $0.2500 + 1 unknown  $0.2500         0",
    ]
    later = await costs("--since", "2999-01-01", "--data", str(tmp_path / ".mesh"))
    assert (later.stdout, later.returncode) == ("", 0)
    assert "no model was called" in later.stderr


async def test_what_is_no_time_and_no_key_is_refused_with_what_is(tmp_path: Path) -> None:
    async with (
        spent(tmp_path) as mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        for params, field in (({"since": "yesterday"}, "since"), ({"by": "mood"}, "by"), ({"x": "1"}, "x")):
            async with session.get("/costs", params=params) as response:
                problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem["field"].rpartition(".")[2]) == (422, field)
    told = await costs("--since", "yesterday")
    assert told.returncode == 2
    assert "say 24h, 7d or 2026-01-01T00:00Z" in told.stderr
