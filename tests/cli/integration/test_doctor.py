"""`mesh doctor` reaches for what the settings name, and says what to do where it is away."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.cli import checks as cli_checks
from meshwright.component import Check, Component
from meshwright.core.errors import StoreFailed
from meshwright.mesh.app import build_mesh
from tests.core.integration.test_otlp import Collector, collector
from tests.support.fake_issuer import AUDIENCE, fake_issuer
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import Mosquitto, payloads_of
from tests.support.postgres import Address, Cluster
from tests.support.running_mesh import run
from tests.support.services import Services
from tests.support.settings import load_settings

__all__ = ["collector"]
AWAY = {
    "MESH_MQTT__URL": "mqtt://127.0.0.1:1",
    "MESH_MODELS__CACHE": "redis",
    "MESH_MODELS__CACHE_REDIS_URL": "redis://:hidden-1@127.0.0.1:1/0",
    "MESH_DATABASE": "postgresql://mesh:hidden-2@127.0.0.1:1/mesh",
    "MESH_OIDC__ISSUER": "http://127.0.0.1:1",
    "MESH_OIDC__AUDIENCE": "mesh",
    "MESH_TRACING__OTLP_ENDPOINT": "http://mesh:hidden-3@127.0.0.1:1/v1/traces",
}
NAMES = {
    "mqtt": "MESH_MQTT__URL",
    "cache": "MESH_MODELS__CACHE_REDIS_URL",
    "database": "that the address is right",
    "oidc": "MESH_OIDC__ISSUER",
    "tracing": "MESH_TRACING__OTLP_ENDPOINT",
}


def checks(folder: Path, agents: Sequence[type[Agent]] = (), **settings: object) -> dict[str, object]:
    """The checks of a mesh with these settings."""
    mesh = build_mesh(load_settings(folder, model="offline", **settings), project=folder, agents=agents)
    components = [component for component in mesh.components if isinstance(component, Component)]
    return {check.name: check.ask for component in components for check in component.checks()}


async def answer(folder: Path, name: str, agents: Sequence[type[Agent]] = (), **settings: object) -> str:
    ask = checks(folder, agents, **settings)[name]
    assert callable(ask)
    return str(await ask())


def test_each_service_that_is_away_is_a_line_with_a_remedy(tmp_path: Path) -> None:
    done = run("doctor", cwd=tmp_path, **AWAY)
    failed = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("FAIL")}
    assert (done.returncode, failed.keys()) == (1, NAMES.keys()), done.stdout + done.stderr
    assert {name: line for name, line in failed.items() if NAMES[name] not in line} == {}
    assert done.stdout.endswith("5 of the checks failed.\n")
    assert "hidden" not in done.stdout + done.stderr


async def test_a_check_without_an_answer_ends() -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    verdict, sentence = await cli_checks._run_check(Check("pager", hang, seconds=0.01))
    assert (verdict, sentence.startswith("No answer within 0.01 s")) == ("FAIL", True)


def test_what_the_settings_do_not_name_is_not_checked(tmp_path: Path) -> None:
    assert NAMES.keys() & checks(tmp_path).keys() == set()


async def test_prompts_of_code_are_not_said_to_be_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/_none.py").touch()
    known = {"agent_id": "lonely", "capabilities": (Capability("rest"),), "prompt_text": "You are alone."}
    lonely = type("Lonely", (Agent,), known)
    said = await answer(tmp_path, "prompts", [lonely])
    assert said == f"1 in the agents' code; there is no folder {tmp_path / 'prompts'}"


async def test_prompts_that_no_agent_reads_are_named(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/context-service.prompt").write_text("---\n---\nShorten it.")
    for name in ("coder", "codr"):
        (tmp_path / f"prompts/{name}.prompt").write_text("---\n---\nDo it.")
    coder = type("Coder", (Agent,), {"agent_id": "coder", "capabilities": (Capability("coding"),)})
    said = await answer(tmp_path, "prompts", agents=[coder])
    assert said.endswith("prompts, 1 of them read by no agent here: codr")


async def test_the_issuer_and_the_collector_are_reached(tmp_path: Path, collector: Collector) -> None:
    assert "accepts spans" in await answer(tmp_path, "tracing", otlp_endpoint=collector.endpoint)
    async with fake_issuer() as issuer:
        known = {"issuer": issuer.url, "audience": AUDIENCE}
        assert "has 1 usable key" in await answer(tmp_path, "oidc", oidc=known)


async def test_the_database_is_reached_and_named_with_what_it_lacks(
    tmp_path: Path, postgres_url: Address
) -> None:
    sentence = await answer(tmp_path, "database", database=str(postgres_url))
    assert "(PostgreSQL 1" in sentence and "accepts the mesh" in sentence
    assert "fsync and full_page_writes off: a crash of its machine may lose" in sentence


async def test_a_database_that_a_start_would_refuse_is_refused(tmp_path: Path, postgres: Cluster) -> None:
    postgres.query("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    url = postgres.url("ascii")
    with pytest.raises(StoreFailed, match="encoding SQL_ASCII"):
        await answer(tmp_path, "database", database=url)


@pytest.mark.needs("redis-server")
async def test_the_cache_is_reached(tmp_path: Path, services: Services) -> None:
    url = f"redis://:{services.redis_password}@{services.redis_host}/0"
    assert (
        await answer(tmp_path, "cache", models={"cache": "redis", "cache_redis_url": url}) == "Redis answers"
    )


@pytest.mark.needs("mosquitto")
async def test_a_check_leaves_the_connection_of_a_running_mesh(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path / "mesh", mqtt_url=broker.url) as api:
        await payloads_of(api.mesh, "edge.connected")
        assert "accepts the mesh" in await answer(tmp_path, "mqtt", mqtt_url=broker.url)
        await api.mesh.runtime.emit([])
        events = await api.get("/events?event_type=edge.disconnected")
        assert events["items"] == []


_OWN_CODE = """from meshwright import Agent, Capability, Run
from framework import seller

class Shop(Agent):
    agent_id = "shop"
    capabilities = (Capability("selling"),)

    async def run(self, run: Run) -> str:
        return await seller(run)
"""
_SERVER = {"LITELLM_BASE_URL": "http://127.0.0.1:1", "MESH_MODEL": "qwen3"}


@pytest.mark.parametrize("is_own_code", [False, True], ids=["prompt", "code"])
def test_a_hard_budget_whose_model_has_no_price_fails_before_the_first_task(
    tmp_path: Path, is_own_code: bool
) -> None:
    if is_own_code:
        (tmp_path / "actors").mkdir()
        (tmp_path / "actors/framework.py").write_text("async def seller(run):\n    return 'sold'\n")
        (tmp_path / "actors/shop.py").write_text(_OWN_CODE)
    else:
        run("init", "--agent", "shop", cwd=tmp_path)
    settings = tmp_path / "mesh.toml"
    settings.write_text('[[ledger.budgets]]\nname = "day"\nlimit_usd = "5"\nwindow = "day"\n')
    refused = run("check", cwd=tmp_path, **_SERVER)
    lines = [line for line in refused.stdout.splitlines() if not line.startswith("ok")]
    expected = "Budget day is hard, and model 'qwen3' has no price: every call of shop is refused"
    assert (refused.returncode, len(lines)) == (1, 2), refused.stdout + refused.stderr
    assert lines[0].startswith("FAIL  budgets") and expected in lines[0]
    assert "[ledger.default_price]" in lines[0]
    settings.write_text(settings.read_text() + "[ledger.default_price]\ninput = 3\noutput = 15\n")
    allowed = run("check", cwd=tmp_path, **_SERVER)
    assert allowed.returncode == 0 and "ok    budgets" in allowed.stdout, allowed.stdout


def test_a_budget_below_the_first_call_is_a_warning(tmp_path: Path) -> None:
    run("init", "--agent", "shop", cwd=tmp_path)
    price = "[ledger.default_price]\ninput = 3\noutput = 15\n"
    budget = '[[ledger.budgets]]\nname = "day"\nlimit_usd = "0.01"\n'
    (tmp_path / "mesh.toml").write_text(budget + price)
    checked = run("check", cwd=tmp_path, **_SERVER)
    assert "warn  budgets     day allows $0.0100, and the first call of shop may cost" in checked.stdout


@pytest.mark.parametrize("place", ["of another", "below a file"])
def test_a_folder_that_cannot_be_written_fails_the_check(tmp_path: Path, place: str) -> None:
    if place == "below a file":
        (tmp_path / "file").touch()
        data, reason = "file/data", "file is no folder"
    else:
        data, reason = "data", "cannot be written by this user"
        (tmp_path / data).mkdir()
        if os.geteuid() == 0:  # whom no mode keeps out
            os.chown(tmp_path / data, 12345, 12345)
            reason = "belongs to another user"
        else:
            (tmp_path / data).chmod(0o500)
    checked = run("check", "--data", data, cwd=tmp_path)
    failed = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
    assert (checked.returncode, len(failed)) == (1, 1), checked.stdout + checked.stderr
    assert failed[0].startswith("FAIL  disk") and reason in failed[0]
