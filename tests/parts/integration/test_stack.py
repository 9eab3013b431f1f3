"""`mesh up --store dapr` on this machine: what it starts, and that it never leaves anything behind."""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import aiohttp
import pytest

from meshwright.client import Client
from tests.journeys.integration.test_http_exposed import common_name, write_certificate
from tests.support.running_mesh import mesh, start
from tests.support.running_stack import UP, children_of, gone, is_free, kill, listening, lives, stack_up
from tests.support.services import Services

pytestmark = pytest.mark.needs("mosquitto", "redis-server")
SERVICES = {"mosquitto", "redis", "placement", "scheduler", "daprd-mesh-0", "mesh-0"}


@pytest.fixture(autouse=True)
def dapr(dapr_bin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every `mesh` find the programs that the tests use."""
    monkeypatch.setenv("MESH_DAPR_BIN", dapr_bin)


async def status_of(url: str) -> int:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status
    except aiohttp.ClientConnectionError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_leaves_no_process_and_no_port(tmp_path: Path, number: signal.Signals) -> None:
    async with stack_up(tmp_path / "a folder") as stack:
        pids, ports = stack.pids, stack.ports
        assert pids.keys() == SERVICES
        assert {pid: os.getsid(pid) for pid in pids.values()} == {pid: pid for pid in pids.values()}
        assert await status_of(f"{stack.url}/readyz") == 200
        assert await stack.stop(number) == 0
        await gone(list(pids.values()))
        assert [port for port in ports if not is_free(port)] == []
        assert not (tmp_path / "a folder" / "mesh.json").exists()
    assert "the stream of actor calls has ended" not in stack.errors.text  # a stop is no fault


async def test_a_second_signal_to_stop_is_an_interruption(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        stack.process.send_signal(signal.SIGINT)
        assert await stack.stop(signal.SIGTERM) == 130


async def test_a_misspelt_variable_is_warned_of_once(tmp_path: Path) -> None:
    async with stack_up(tmp_path, MESH_DURABILTY="full") as stack:
        pass
    assert stack.errors.text.count("MESH_DURABILTY is no setting") == 1


async def test_kill_9_leaves_no_process_and_the_next_start_finds_everything(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        pids = list(stack.pids.values())
        assert await stack.stop(signal.SIGKILL) == -signal.SIGKILL
        async with asyncio.timeout(240):
            await gone(pids)
    async with stack_up(tmp_path) as again:
        assert await status_of(f"{again.url}/readyz") == 200


async def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    process = await start([*UP, str(tmp_path)], {}, stdout=PIPE, stderr=PIPE)
    while len(children := children_of(process.pid)) < len(SERVICES):
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
    assert not any(map(lives, children))


async def test_what_is_killed_comes_back_where_it_was(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        for name, pid in stack.pids.items():
            kill(pid)
            await stack.errors.until(f'"message": "{name} was killed by SIGKILL')
            await stack.errors.until(f'"message": "{name} works again')
        assert [port for port in stack.ports if is_free(port)] == []
        assert await status_of(f"{stack.url}/readyz") == 200


async def test_it_goes_on_where_nobody_reads_what_it_says(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        stack.process.stderr._transport.close()  # type: ignore[attr-defined]
        for name in ("redis", "mesh-0"):
            log = tmp_path / "logs" / f"{name}.log"
            said = len(log.read_text())
            kill(stack.pids[name])
            while len(log.read_text()) == said:
                await asyncio.sleep(0.01)
        while await status_of(f"{stack.url}/readyz") != 200:
            await asyncio.sleep(0.01)
        assert await stack.stop() == 0


async def test_a_second_one_on_the_same_folder_is_told_so(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        for host in ("dapr", "sqlite"):
            done = await mesh("up", "--host", host, "--port", "0", "--data", str(tmp_path))
            assert (done.status, done.err.count("\n")) == (1, 1)
            assert f"is in use by process {stack.process.pid}" in done.err


async def test_a_missing_program_is_named_with_its_remedy(tmp_path: Path) -> None:
    up = ("up", "--host", "dapr", "--port", "0", "--data", str(tmp_path / "data"))
    done = await mesh(*up, MESH_DAPR_BIN=str(tmp_path))
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"mesh: there is no daprd in {tmp_path}; ")
    assert "make dapr builds it and prints its folder: set MESH_DAPR_BIN to that" in done.err


async def test_a_port_in_use_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = await mesh("up", "--host", "dapr", "--port", port, "--data", str(tmp_path))
    assert done.status == 1 and f"port {port} of 127.0.0.1 is in use" in done.err
    assert not (tmp_path / "logs").exists()


async def test_every_replica_has_a_sidecar_and_redis_can_be_the_bus(tmp_path: Path) -> None:
    async with stack_up(tmp_path, "--replicas", "2", "--bus", "redis") as stack:
        assert stack.pids.keys() == SERVICES - {"mosquitto"} | {"daprd-mesh-1", "mesh-1"}
        async with Client(stack.url) as client:  # of each thread a replica is chosen; one has the event log
            ended = await asyncio.gather(*(client.ask("digest-agent", "") for _ in range(6)))
        assert {outcome.status for outcome in ended} == {"succeeded"}, ended


async def test_what_runs_already_is_used(tmp_path: Path, services: Services) -> None:
    given = {
        "MESH_BROKER_URL": services.broker_url,
        "MESH_REDIS_HOST": services.redis_host,
        "MESH_REDIS_PASSWORD": services.redis_password,
        "MESH_PLACEMENT": services.placement,
        "MESH_SCHEDULER": services.scheduler,
        "MESH_DAPR__NAMESPACE": "given",
    }
    async with stack_up(tmp_path, **given) as stack:
        assert stack.pids.keys() == {"daprd-mesh-0", "mesh-0"}
        assert f"{services.redis_host} (given)" in " ".join(stack.errors.text.split())
        assert services.redis_password not in stack.errors.text


@pytest.mark.needs("ss")
async def test_everything_listens_on_loopback_alone_but_two_probes(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        beside = {
            name: sorted(host for host, _ in listening(pid) if host != "127.0.0.1")
            for name, pid in stack.pids.items()
        }
        # Dapr 1.18 answers /healthz of these two everywhere, whatever it is told.
        assert beside == {name: ["*"] if name in ("placement", "scheduler") else [] for name in SERVICES}


async def test_what_holds_a_password_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with stack_up(tmp_path) as stack:
        secrets = [tmp_path / "redis" / "redis.conf", tmp_path / "mosquitto" / "users"]
        assert [path.stat().st_mode & 0o777 for path in secrets] == [0o600, 0o600]
        modes = {path: path.lstat().st_mode & 0o777 for path in tmp_path.rglob("*")}
        assert {str(path): f"{mode:o}" for path, mode in modes.items() if mode & 0o077} == {}
        password = secrets[0].read_text().split("requirepass ")[1].strip()
        seen = [Path(f"/proc/{pid}/cmdline").read_text() for pid in stack.pids.values()]
        logs = [path.read_text() for path in (tmp_path / "logs").iterdir()]
        assert not any(password in text for text in [*seen, *logs, stack.errors.text])


@pytest.mark.needs("mosquitto_sub")
async def test_a_stack_serves_https_and_its_broker_follows_the_first_key(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "first")
    tls = {"MESH_HTTP__TLS_CERT": str(cert), "MESH_HTTP__TLS_KEY": str(key)}
    where = ("--data", str(tmp_path / "data"))
    async with stack_up(tmp_path / "data", **tls) as stack:
        assert stack.url.startswith("https://") and await common_name(stack.url) == "first"
        asked = await mesh("ask", "simple-agent", "Hello", *where)  # on this machine without TLS
        assert asked.status == 0, asked.err
        write_certificate(tmp_path, "second")
        async with asyncio.timeout(240):
            while await common_name(stack.url) != "second":
                await asyncio.sleep(0.1)
        broker = next(row for row in stack.rows if row[0] == "mosquitto")[1].rpartition(":")[2]
        watching = ("mosquitto_sub", "-V", "5", "-p", broker, "-t", "mesh/default/status", "-C", "1")
        assert await status_of_program(*watching) == 0
        waiting = await asyncio.create_subprocess_exec(*watching[:-1], "1000", stdout=DEVNULL, stderr=PIPE)
        made = await mesh("keys", "create", "--name", "ada", "--yes", *where)
        assert made.status == 0, made.err
        async with asyncio.timeout(240):
            await waiting.communicate()  # it is disconnected, and let in no more
        assert await status_of_program(*watching) != 0
        assert (await mesh("keys", "open", "--yes", *where)).status == 0
        async with asyncio.timeout(240):
            while await status_of_program(*watching) != 0:
                await asyncio.sleep(0.1)


async def status_of_program(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
    return await process.wait()
