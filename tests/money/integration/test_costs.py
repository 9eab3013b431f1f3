"""Costs of models over HTTP and on a terminal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.core.messages import Caller, Task, Usage
from meshwright.edges.http.server import serving
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply
from meshwright.testing import ScriptedModel
from tests.money.unit.test_keys import ANSWERS, MASTER, FakeProxy
from tests.support.running_mesh import Done, mesh
from tests.support.settings import load_settings


class Clerk(Agent):
    """Answers what its model says."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)


def reply(cost: str | None, **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=1200, completion_tokens=40, cached_tokens=1024)
    known = None if cost is None else Decimal(cost)
    return ModelReply(content="Done.", usage=usage, cost_usd=known, **{"model": "big", **fields})


@asynccontextmanager
async def spent(folder: Path, tags: tuple[str, ...] = ()) -> AsyncIterator[Mesh]:
    """A mesh that has called three models: at a price, at none that is known, and at none at all."""

    class Tagged(Clerk):
        def tags(self, task: Task) -> tuple[str, ...]:
            return tags

    saved = {"cache_hit": True, "saved_usd": Decimal("0.25"), "cost_source": "priced"}
    replies = reply("0.25", cost_source="priced"), reply(None, model="odd"), reply("0", **saved)
    settings = load_settings(folder, listen_port=0)
    mesh = build_mesh(settings, project=folder, agents=[Tagged], model=ScriptedModel(*replies))
    async with mesh:
        for _ in replies:
            await mesh.get(Tasks).ask("clerk", "Do it.")
        yield mesh


async def costs(*arguments: str, **environment: str) -> Done:
    return await mesh("costs", *arguments, **environment)


async def test_a_task_stands_beside_the_estimate_of_its_agent(tmp_path: Path) -> None:
    replies = [reply(cost, cost_source="priced") for cost in ("0.25", "0.5", "4")]
    settings = load_settings(tmp_path, listen_port=0)
    mesh_ = build_mesh(settings, project=tmp_path, agents=[Clerk], model=ScriptedModel(*replies))
    async with mesh_, serving(mesh_, "127.0.0.1", 0) as server:
        for _ in replies:
            await mesh_.get(Tasks).ask("clerk", "Do it.")
        done = await costs("--by", "task,agent", "--json", "--url", server.url)
        found = [
            (item["cost_usd"], item["key2"], item["estimate_usd"]) for item in json.loads(done.out)["items"]
        ]
        assert found == [("4", "clerk", "0.5"), ("0.5", "clerk", "0.5"), ("0.25", "clerk", "0.5")]
        shown = await costs("--by", "task,agent", "--url", server.url)
        assert "estimate" in shown.out.splitlines()[0] and "$4.0000" in shown.out.splitlines()[1]
        assert "estimate" not in (await costs("--by", "task", "--url", server.url)).out


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
    assert json.loads(told.out) == json.loads(stored.out) == {**found, "since": None}
    big, odd = found["items"]
    assert (big["key"], big["calls"], big["cost_usd"], big["saved_usd"]) == ("big", 2, "0.25", "0.25")
    assert (odd["key"], odd["cost_usd"], odd["unpriced"]) == ("odd", None, 1)
    assert found["total"]["cost_usd"] == "0.25"


@pytest.mark.parametrize("by", ["tenant", "agent", "model", "prompt"])
@pytest.mark.parametrize("bucket", ["hour", "day"])
async def test_usage_and_cost_are_a_series_by_each_key(tmp_path: Path, by: str, bucket: str) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/clerk.prompt").write_text("---\nvariables: []\n---\nBe brief.")
    replies = [reply("0.25"), reply("0.5", model="small"), reply("1")]
    settings = load_settings(tmp_path, listen_port=0)
    mesh_ = build_mesh(settings, project=tmp_path, agents=[Clerk], model=ScriptedModel(*replies))
    async with mesh_, serving(mesh_, "127.0.0.1", 0) as server, aiohttp.ClientSession(server.url) as session:
        for tenant_id in ("acme", "acme", "umbrella"):
            caller = Caller(tenant_id=tenant_id)
            receipt = await mesh_.get(Tasks).submit(TaskRequest(agent_id="clerk"), caller)
            await mesh_.get(Tasks).outcome(receipt.task_id, tenant_id)
        async with session.get("/costs", params={"by": by, "bucket": bucket}) as response:
            found = await response.json()
        told = await costs("--by", by, "--bucket", bucket, "--json", "--url", server.url)
    assert json.loads(told.out) == found
    sums = {
        "tenant": {"acme": (2, 2400, "0.75"), "umbrella": (1, 1200, "1")},
        "agent": {"clerk": (3, 3600, "1.75")},
        "model": {"big": (2, 2400, "1.25"), "small": (1, 1200, "0.5")},
        "prompt": {"clerk": (3, 3600, "1.75")},
    }
    of_keys: dict[str, list[Any]] = {}
    for item in found["items"]:  # an hour may have passed meanwhile
        of_keys.setdefault(item["key"].partition("@")[0], []).append(item)
        assert item["time"].endswith(":00:00Z") and item["completion_tokens"] == 40 * item["calls"]
    assert {
        key: (
            sum(item["calls"] for item in items),
            sum(item["prompt_tokens"] for item in items),
            str(sum(Decimal(item["cost_usd"]) for item in items)),
        )
        for key, items in of_keys.items()
    } == sums[by]


async def test_a_person_reads_a_table_in_which_nothing_unknown_is_free(tmp_path: Path) -> None:
    async with spent(tmp_path):
        pass
    told = await costs("--by", "model", "--data", str(tmp_path / ".mesh"))
    assert told.out.splitlines() == [
        "model  calls  prompt  cached  completion  known                saved by cache  failed",
        "big    2      2,400   2,048   80          $0.2500              $0.2500         0",
        "odd    1      1,200   1,024   40          $?                   $0              0",
        "total  3      3,600   3,072   120         $0.2500 + 1 unknown  $0.2500         0",
    ]
    later = await costs("--since", "2999-01-01", "--data", str(tmp_path / ".mesh"))
    assert (later.out, later.status) == ("", 0)
    assert "no model was called" in later.err


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
    assert told.status == 2
    assert "say 24h, 7d or 2026-01-01T00:00Z" in told.err


async def test_a_proxys_figures_stand_beside_ours_and_where_they_differ_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_tags = {"drafts": 0.25, "research": 0.02, "User-Agent: litellm": 0.27}
    rows = [{"individual_request_tag": tag, "total_spend": cost} for tag, cost in of_tags.items()]
    monkeypatch.setitem(ANSWERS, "/spend/tags", rows)
    customers = [{"customer": "clerk", "total_spend": 0.30000000000000004}]
    monkeypatch.setitem(ANSWERS, "/global/spend/report", [{"customers": customers}])
    async with spent(tmp_path, tags=("drafts", "letters")):
        pass
    fake, here = FakeProxy(), ("--data", str(tmp_path / ".mesh"), "--proxy")
    async with fake.running() as url:
        names = {"LITELLM_BASE_URL": url, "LITELLM_API_KEY": MASTER}
        told = await costs("--by", "tag", *here, **names)
        assert told.out.splitlines() == [
            "tag       ledger               proxy    difference",
            "letters   $0.2500 + 1 unknown           -$0.2500",
            "research                       $0.0200  +$0.0200",
            "drafts    $0.2500 + 1 unknown  $0.2500",
        ]
        assert told.err == "2 of 3 differ\n"
        listed = await costs("--since", "24h", "--json", *here, **names)
        [clerk] = json.loads(listed.out)["items"]
        assert (clerk["cost_usd"], clerk["unpriced"], clerk["differs"]) == ("0.25", 1, True)
        assert Decimal(clerk["proxy_usd"]) - Decimal("0.25") == Decimal(clerk["difference_usd"])
    since = json.loads(listed.out)["since"]
    assert since.endswith(("T00:00:00Z", "T00:00:00+00:00"))
    assert fake.asked[-1][1]["start_date"] == since[:10]


@pytest.mark.parametrize("asked", [("--by", "task"), ("--by", "tag", "--since", "24h")])
async def test_what_a_proxy_does_not_know_is_refused_with_what_it_does(asked: tuple[str, ...]) -> None:
    told = await costs("--proxy", *asked)
    assert told.status == 2
    assert "say --by agent" in told.err
