"""Stores that earlier code has written are opened, listed, summed up, verified and worked on."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from meshwright import Client
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import http_mesh
from tests.support.old_stores.make import BUDGETS, PRICE, REPLY, Asker, Parent, Writer, readings

TOKEN = "mesh-admin-0123456789-0123456789-0123456789"
STORES = Path(__file__).parents[2] / "support" / "old_stores"


@pytest.mark.parametrize("name", sorted(path.stem for path in STORES.glob("*.json")))
async def test_a_store_of_earlier_code_reads_as_it_did_and_goes_on(tmp_path: Path, name: str) -> None:
    expected = json.loads((STORES / f"{name}.json").read_text())
    script = ScriptedModel(*[REPLY] * 5)
    options = {"budgets": BUDGETS, "default_price": PRICE, "admin_token": TOKEN}
    data = tmp_path / ".mesh"
    data.mkdir(mode=0o700)
    (data / "mesh.db").write_bytes(lzma.decompress((STORES / f"{name}.db.xz").read_bytes()))
    async with http_mesh(tmp_path, Writer, Asker, Parent, script=script, **options) as api:
        assert await readings(api) == expected
        async with Client(api.url, TOKEN) as admin:
            verified = await admin.verify_store()
        assert verified["faults"] == [], verified
        [question] = (await api.get("/inbox"))["items"]
        await api.client.answer(question["task_id"], "blue", key=question["wait_id"])
        assert (await api.client.outcome(question["task_id"])).success
        await api.finished(agent_id="writer", payload={"text": "one more"}, thread_id="talk")
        await api.mesh.log.flush()
        after = await readings(api)
        assert after["total"] == "0.05"
        assert len(after["thread"]) == len(expected["thread"]) + 1
