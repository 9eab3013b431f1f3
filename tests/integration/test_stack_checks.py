"""What `mesh up --host dapr` looks at before workers start: each promise that is off is said, and why."""

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from meshwright.errors import ConfigError, ServiceFailed
from meshwright.settings import Settings
from meshwright.stack.checks import channel_of, check_backends
from meshwright.stack.checks.broker import check_broker, check_mosquitto
from meshwright.stack.checks.files import check_files, line_of
from meshwright.stack.checks.store import check_redis
from meshwright.stack.ports import Ports
from meshwright.stack.reasons import reason_of
from meshwright.stack.recipes import mosquitto, redis
from meshwright.stack.services import Backends
from tests.support.running_stack import UP
from tests.support.services import COMPONENTS, Services

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


def run_mosquitto(services: Services, *lines: str) -> str:
    """A Mosquitto with lines of its own in its configuration; its URL."""
    service = mosquitto(
        services.program("mosquitto"), services.ports, COMPONENTS, services.folder / "own", "secret"
    )
    [path, *_] = service.files
    files = {**service.files, path: service.files[path] + "\n".join(lines) + "\n"}
    services.run(replace(service, files=files))
    return service.address


def test_our_mosquitto_keeps_everything() -> None:
    assert check_mosquitto(COMPONENTS / OURS) == []


@pytest.mark.parametrize("name", ["persistence", "autosave_interval"])
def test_a_mosquitto_that_may_lose_messages_is_told(tmp_path: Path, name: str) -> None:
    changed = tmp_path / "mosquitto.conf"
    lines = (COMPONENTS / OURS).read_text().splitlines()
    changed.write_text("\n".join(line for line in lines if not line.startswith(f"{name} ")))
    [line] = check_mosquitto(changed)
    assert line.startswith(f"{changed}: {name} is not set: messages that wait in the broker are lost")


async def test_of_a_broker_that_runs_already_it_is_told_what_cannot_be_asked(services: Services) -> None:
    [line] = await check_broker(services.broker_url, client_id="check")
    assert "has its sessions on disk cannot be asked" in line and "persistence true" in line


async def test_a_broker_that_keeps_no_sessions_is_told() -> None:
    async def forget(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x20\x02\x00\x00")  # CONNACK: accepted, no session present
        await reader.read()
        writer.close()

    async with await asyncio.start_server(forget, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        [line] = await check_broker(f"mqtt://127.0.0.1:{port}", client_id="check")
    assert "keeps no session" in line


async def test_a_broker_that_does_not_know_our_user_is_told(services: Services) -> None:
    url = services.broker_url.replace("mesh:", "mesh:not")
    with pytest.raises(ServiceFailed, match="refuses client check") as caught:
        await check_broker(url, client_id="check")
    assert "MESH_BROKER_URL" in caught.value.remedy and urlsplit(url).password not in str(caught.value)


async def test_a_broker_that_refuses_the_client_id_is_told(own_services: Services) -> None:
    url = run_mosquitto(own_services, "clientid_prefixes allowed-")
    with pytest.raises(ServiceFailed, match="refuses client check"):
        await check_broker(url, client_id="check")
    assert await check_broker(url, client_id="allowed-check")


async def test_a_broker_that_is_not_there_is_told(ports: Ports) -> None:
    [port] = ports.take(1)
    with pytest.raises(ServiceFailed, match=f"MQTT broker at 127.0.0.1:{port} does not answer") as caught:
        await check_broker(f"mqtt://mesh:secret@127.0.0.1:{port}", client_id="check")
    assert "unset MESH_BROKER_URL" in caught.value.remedy and "secret" not in str(caught.value)


# Dapr


@pytest.mark.parametrize("name", ["placement", "scheduler"])
async def test_a_control_plane_that_is_not_there_is_told(services: Services, ports: Ports, name: str) -> None:
    address = f"127.0.0.1:{ports.take(1)[0]}"
    backends = Backends(redis_host=services.redis_host, redis_password=services.redis_password)
    with pytest.raises(
        ServiceFailed, match=f"Dapr's {name} does not answer on {address}, and without it"
    ) as caught:
        await check_backends(Settings(bus="redis", **{name: address}), COMPONENTS, backends)
    assert f"unset MESH_{name.upper()}" in caught.value.remedy


@pytest.mark.parametrize(
    ("version", "wanted", "channel", "said"),
    [
        ((1, 18, 2), "auto", "grpc", 0),
        ((1, 19, 0), "grpc", "grpc", 0),
        ((1, 18, 2), "http", "http", 0),
        ((1, 17, 4), "auto", "http", 1),
        ((1, 14, 0), "auto", "http", 2),
    ],
)
def test_the_channel_is_what_the_sidecar_can(
    version: tuple[int, ...], wanted: str, channel: str, said: int
) -> None:
    found, lines = channel_of(Settings.model_validate({"dapr_channel": wanted}), version)
    assert (found, len(lines)) == (channel, said)
    assert all("daprd 1.1" in line and "run daprd 1.1" in line for line in lines)


def test_a_sidecar_that_cannot_do_what_was_asked_for_is_refused() -> None:
    with pytest.raises(ServiceFailed, match=r"daprd 1\.17\.0 cannot call actors over gRPC") as caught:
        channel_of(Settings(dapr_channel="grpc"), (1, 17, 0))
    assert 'dapr_channel = "auto"' in caught.value.remedy


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


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "said"),
    [
        ("state.yaml", "metadata:\n  name", "metadata:\n bad\n  name", 6, "is not YAML"),
        (
            "mqtt-bus/bus.yaml",
            "  name: bus",
            "  name: buss",
            5,
            "metadata.name has to be 'bus', but is 'buss'",
        ),
        ("env.yaml", "kind: Component", "kind: Componentt", 3, "kind has to be 'Component', but is"),
        ("mqtt-bus/views.yaml", "secretStore: env", "secretStore: vault", 7, "secretStore has to be env"),
        ("config.yaml", "spec:", "spec: [", 9, "is not YAML"),
    ],
)
def test_a_file_that_daprd_would_leave_out_is_told_with_its_line(
    changed: Callable[[str, str, str], Path], name: str, old: str, new: str, line: int, said: str
) -> None:
    folder = changed(name, old, new)
    with pytest.raises(ConfigError) as caught:
        check_files(folder, "mqtt")
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{folder / name}:{line}: "), caught.value


def test_our_files_have_nothing_against_them() -> None:
    for bus in ("mqtt", "redis"):
        check_files(COMPONENTS, bus)


@pytest.mark.parametrize(
    ("name", "old", "new", "field", "said"),
    [
        ("mqtt-bus/bus.yaml", 'value: "1"', 'value: "one"', "name: qos", "cannot parse 'qos' as uint"),
        ("mqtt-bus/bus.yaml", "MESH_BROKER_URL, key", "MESH_OTHER, key", "name: url", "missing url"),
        ("state.yaml", "state.redis", "state.redsi", "type:", "couldn't find state store state.redsi/v1"),
    ],
)
async def test_a_component_that_daprd_refuses_is_told_with_its_line(
    services: Services,
    changed: Callable[[str, str, str], Path],
    name: str,
    old: str,
    new: str,
    field: str,
    said: str,
) -> None:
    folder = changed(name, old, new)
    sidecar = services.daprd("mesh", components=folder, actors=False)
    await sidecar.start_in_vain()
    reason = reason_of(sidecar.log.splitlines()[-50:], partial(line_of, folder, "mqtt"))
    lines = (folder / name).read_text().splitlines()
    number = next(number for number, line in enumerate(lines, start=1) if field in line)
    assert reason.text.startswith(f"{folder / name}:{number}: ") and said in reason.text


async def test_mesh_up_names_the_file_of_a_project_that_cannot_be_used(
    changed: Callable[[str, str, str], Path], dapr_bin: str
) -> None:
    project = changed("state.yaml", "state.redis", "state.redsi").parent
    environment = os.environ | {"MESH_DAPR_BIN": dapr_bin}
    process = await asyncio.create_subprocess_exec(
        *UP, "data", cwd=project, env=environment, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert f"{project}/components/state.yaml:9: couldn't find state store" in err.decode()
    assert "its log is data/logs/daprd-mesh-0.log" in err.decode()
