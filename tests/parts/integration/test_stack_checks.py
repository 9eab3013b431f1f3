"""`mesh up --store dapr` names each guarantee that does not hold, before workers start."""

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.core.errors import ServiceFailed
from meshwright.parts.stack.checks import (
    check_backends,
    check_mosquitto,
    check_redis,
    choose_channel,
    failure_reason,
)
from meshwright.parts.stack.component_files import volatile_stores
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Backends, redis
from tests.support.running_mesh import run
from tests.support.running_stack import UP
from tests.support.scripted_broker import HABITS, scripted_broker
from tests.support.services import COMPONENTS, Services
from tests.support.settings import Settings

OURS = Path("mosquitto/mosquitto.conf")


# Redis


def run_redis(services: Services, *options: str) -> tuple[str, str]:
    """A Redis with options of its own; its address and password."""
    service = redis(
        services.program("redis-server"), services.ports, COMPONENTS, services.folder / "own", "secret"
    )
    services.run(replace(service, argv=(*service.argv, *options)))
    return service.address, "secret"


async def test_the_redis_that_we_start_has_nothing_against_it(services: Services) -> None:
    assert await check_redis(services.redis_host, services.redis_password) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--appendonly", "no"), "keeps no log on disk"),
        (("--appendfsync", "everysec"), "has appendfsync everysec: a crash of its machine takes back"),
        (("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"), "has maxmemory-policy allkeys-lru"),
        (("--rename-command", "CONFIG", ""), "cannot be verified"),
    ],
)
async def test_a_redis_that_may_lose_tasks_is_told(
    own_services: Services, options: tuple[str, ...], said: str
) -> None:
    address, password = run_redis(own_services, *options)
    [line] = await check_redis(address, password)
    assert line.startswith(f"Redis at {address} ") and said in line


async def test_a_redis_that_wants_another_password_is_told(services: Services) -> None:
    with pytest.raises(ServiceFailed, match="refuses us: WRONGPASS") as caught:
        await check_redis(services.redis_host, "wrong")
    assert "MESH_REDIS_PASSWORD" in caught.value.remedy
    with pytest.raises(ServiceFailed, match="refuses us: NOAUTH"):
        await check_redis(services.redis_host, "")


async def test_a_redis_that_is_not_there_is_told(ports: Ports) -> None:
    address = f"127.0.0.1:{ports.take(1)[0]}"
    with pytest.raises(ServiceFailed, match=f"Redis at {address} does not answer") as caught:
        await check_redis(address, "")
    assert "unset MESH_REDIS_HOST" in caught.value.remedy


# The broker


def test_our_mosquitto_keeps_everything() -> None:
    assert check_mosquitto(COMPONENTS / OURS) == []


@pytest.mark.parametrize("name", ["persistence", "autosave_interval"])
def test_a_mosquitto_that_may_lose_messages_is_told(tmp_path: Path, name: str) -> None:
    changed = tmp_path / "mosquitto.conf"
    lines = (COMPONENTS / OURS).read_text().splitlines()
    changed.write_text("\n".join(line for line in lines if not line.startswith(f"{name} ")))
    [line] = check_mosquitto(changed)
    assert line.startswith(f"{changed}: {name} is not set: messages that wait in the broker are lost")


@pytest.mark.parametrize("name", ["broker_url", "placement", "scheduler"])
async def test_a_service_that_does_not_answer_is_named(services: Services, ports: Ports, name: str) -> None:
    address = f"127.0.0.1:{ports.take(1)[0]}"
    url = f"mqtt://mesh:secret@{address}" if name == "broker_url" else address
    backends = Backends(
        broker_url=url, redis_host=services.redis_host, redis_password=services.redis_password
    )
    settings = Settings(**{"bus": "mqtt" if name == "broker_url" else "redis", name: url})
    with pytest.raises(ServiceFailed, match=f"does not answer on {address}") as caught:
        await check_backends(settings, COMPONENTS, backends)
    assert f"unset MESH_{name.upper()}" in caught.value.remedy and "secret" not in str(caught.value)


# Dapr


@pytest.mark.parametrize(
    ("version", "wanted", "channel", "said"),
    [
        ((1, 18, 2), "auto", "grpc", 0),
        ((1, 19, 0), "grpc", "grpc", 0),
        ((1, 18, 2), "http", "http", 0),
        ((1, 17, 4), "auto", "http", 1),
    ],
)
def test_the_channel_is_what_the_sidecar_can(
    version: tuple[int, ...], wanted: str, channel: str, said: int
) -> None:
    found, lines = choose_channel(Settings(dapr_channel=wanted), version)
    assert (found, len(lines)) == (channel, said)
    assert all("daprd 1.1" in line and "run daprd 1.1" in line for line in lines)


def test_a_sidecar_that_cannot_do_what_was_asked_for_is_refused() -> None:
    with pytest.raises(ServiceFailed, match=r"daprd 1\.17\.0 cannot call actors over gRPC") as caught:
        choose_channel(Settings(dapr_channel="grpc"), (1, 17, 0))
    assert 'dapr.channel = "auto"' in caught.value.remedy


async def test_a_broker_without_shared_subscriptions_ends_the_start(tmp_path: Path, dapr_bin: str) -> None:
    async with scripted_broker(HABITS["rabbitmq-4.3.6"]) as broker:
        environment = os.environ | {"MESH_DAPR_BIN": dapr_bin, "MESH_BROKER_URL": broker.url}
        process = await asyncio.create_subprocess_exec(
            *UP, "data", cwd=tmp_path, env=environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        assert (process.returncode, out) == (1, b"")
        assert "no shared subscriptions" in err.decode() and "use --bus redis" in err.decode()
        assert not any("." in name for name in broker.connects), "NATS takes no dot in a client id"


# Component files


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Component files of a project's own, with one text replaced."""

    def change(name: str, old: str, new: str) -> Path:
        folder = tmp_path / "project" / "components"
        shutil.copytree(COMPONENTS, folder)
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        return folder

    return change


async def test_a_store_that_keeps_nothing_on_disk_is_told(
    changed: Callable[[str, str, str], Path], services: Services
) -> None:
    components = changed("state.yaml", "state.redis", "state.in-memory")
    (line,) = volatile_stores(components, "mqtt")
    number = (components / "state.yaml").read_text().partition("state.in-memory")[0].count("\n") + 1
    assert line.startswith(f"{components / 'state.yaml'}:{number}: state.in-memory keeps nothing on disk")
    backends = Backends(
        redis_host=services.redis_host, redis_password=services.redis_password, broker_url=services.broker_url
    )
    assert line in await check_backends(Settings(bus="redis"), components, backends)
    assert [*volatile_stores(COMPONENTS, "mqtt")] == []
    out = " ".join(run("check", "--trust", cwd=components.parent).stdout.split())
    assert "warn dapr" in out and "state.in-memory keeps nothing on disk" in out


@pytest.mark.parametrize(
    ("name", "old", "new", "component", "said"),
    [
        ("mqtt-bus/bus.yaml", 'value: "1"', 'value: "one"', "bus", "cannot parse 'qos' as uint"),
        ("mqtt-bus/bus.yaml", "MESH_BROKER_URL, key", "MESH_OTHER, key", "bus", "missing url"),
        ("state.yaml", "state.redis", "state.redsi", "state", "couldn't find state store state.redsi/v1"),
    ],
)
async def test_a_component_that_daprd_refuses_is_named(
    services: Services,
    changed: Callable[[str, str, str], Path],
    name: str,
    old: str,
    new: str,
    component: str,
    said: str,
) -> None:
    sidecar = services.daprd("mesh", components=changed(name, old, new), actors=False)
    await sidecar.start_in_vain()
    reason = failure_reason(sidecar.log.splitlines()[-50:])
    assert reason.text.startswith(f"component {component}: ") and said in reason.text
    assert ("MESH_DAPR_BIN" in reason.remedy) == ("couldn't find" in said)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (
            "state.yaml",
            "state.redis",
            "state.redsi",
            "daprd knows no component type 'state.redsi'; did you mean",
        ),
        ("mqtt-bus/bus.yaml", "metadata:\n  name", "metadata:\n bad\n  name", "no component named bus"),
    ],
)
async def test_mesh_up_names_the_component_that_cannot_be_used(
    changed: Callable[[str, str, str], Path], dapr_bin: str, name: str, old: str, new: str, said: str
) -> None:
    project = changed(name, old, new).parent
    environment = os.environ | {"MESH_DAPR_BIN": dapr_bin}
    process = await asyncio.create_subprocess_exec(
        *UP, "data", cwd=project, env=environment, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert said in err.decode().splitlines()[-1]
