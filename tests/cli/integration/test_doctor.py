"""`mesh doctor` reaches for what the settings name, and says what to do where it is away."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.cli import checks as cli_checks
from meshwright.component import Check, Component
from meshwright.mesh.app import build_mesh
from tests.core.integration.test_otlp import Collector, collector
from tests.support.fake_issuer import AUDIENCE, fake_issuer
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import Mosquitto, payloads_of
from tests.support.postgres import Address
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


async def test_the_database_is_reached(tmp_path: Path, postgres_url: Address) -> None:
    assert "accepts the mesh" in await answer(tmp_path, "database", database=str(postgres_url))


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
