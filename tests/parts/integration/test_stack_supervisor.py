"""The supervisor on small programs: it waits, keeps alive, gives up with a reason, and leaves nothing."""

import asyncio
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from meshwright.core.errors import ServiceFailed
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Layer, Service
from meshwright.parts.stack.supervisor import LAUNCH, Log, Patience, Supervisor
from tests.support.running_stack import gone, kill, lives

LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{LISTEN}"
BRIEF = """
import pathlib, socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
server.accept()[0].close()
server.accept()[0].close()
while not pathlib.Path({full!r}).exists():
    time.sleep(0.01)
sys.exit("Error: the disk is full")
"""
HTTP = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
HANGS = """
import faulthandler, http.server, signal, sys
faulthandler.register(signal.SIGUSR2, all_threads=True)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
for _ in range(5):
    server.handle_request()
def spin_for_ever():
    while True:
        pass
spin_for_ever()
"""
SAYS_WHETHER = """
import signal, socket, sys
def stop(*_):
    socket.create_connection(("127.0.0.1", {port})).close()
    print("what is below still answers", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""
PARENT = """
import asyncio, sys
from pathlib import Path
from meshwright.parts.stack.services import Layer, Service
from meshwright.parts.stack.supervisor import Supervisor

async def main(folder, code, port):
    supervisor = Supervisor(Path(folder), warn=print)
    service = Service(
        name="it", layer=Layer.STORES, argv=(sys.executable, "-c", code, port), address="",
        ready=f"tcp://127.0.0.1:{port}",
    )
    await supervisor.start([service])
    print(supervisor.running[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""
Program = Callable[..., Service]
QUICK = Patience(max_restarts=10, first_pause_seconds=0.001, max_pause_seconds=0.01, steady_seconds=60)


@pytest.fixture
def program(ports: Ports) -> Program:
    return partial(service, ports)


def service(
    ports: Ports,
    code: str,
    *,
    name: str = "it",
    layer: Layer = Layer.STORES,
    port: int | None = None,
    scheme: str = "tcp",
    **times: float,
) -> Service:
    port = port or ports.take(1)[0]
    return Service(
        name=name,
        layer=layer,
        argv=(sys.executable, "-c", code, str(port)),
        address=f"127.0.0.1:{port}",
        ready=f"{scheme}://127.0.0.1:{port}/",
        **times,
    )


class Warnings:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Condition()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._notifying = asyncio.ensure_future(self._notify())

    async def until(self, text: str) -> None:
        async with self._more:
            await self._more.wait_for(lambda: any(text in line for line in self.lines))

    async def _notify(self) -> None:
        async with self._more:
            self._more.notify_all()


@pytest.fixture
async def warnings() -> Warnings:
    return Warnings()


@asynccontextmanager
async def supervisor(folder: Path, warnings: Callable[[str], None], **options) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(folder, warn=warnings, **({"patience": QUICK} | options))
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_a_dead_program_is_started_again_on_its_port(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    async with supervisor(tmp_path, warnings) as supervised:
        [service] = await supervised.start([program(LISTEN)])
        [(_, first)] = supervised.running
        kill(first)
        await warnings.until("it works again")
        assert warnings.lines[0] == "it was killed by SIGKILL; starting it again in 0.001 s (1 of 10)"
        [(again, second)] = supervised.running
        assert again == service and second != first and lives(second)


async def test_ten_deaths_in_a_row_end_with_the_reason_and_its_log(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    async with supervisor(tmp_path, warnings) as supervised:
        full = tmp_path / "full"
        await supervised.start([program(BRIEF.format(full=str(full)))])
        full.touch()
        error = await supervised.failure()
        assert isinstance(error, ServiceFailed)
        assert error.message == "it died 11 times in a row; it ended with status 1: Error: the disk is full"
        assert str(tmp_path / "it.log") in error.remedy
    assert len([line for line in warnings.lines if "starting it again" in line]) == 10
    assert (tmp_path / "it.log").read_text().count("the disk is full") == 11


async def test_deaths_far_apart_are_never_too_many(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    patience = Patience(max_restarts=1, first_pause_seconds=0.001, steady_seconds=0.0)
    async with supervisor(tmp_path, warnings, patience=patience) as supervised:
        await supervised.start([program(LISTEN)])
        for _ in range(3):
            warnings.lines.clear()
            kill(supervised.running[0][1])
            await warnings.until("works again")


async def test_a_program_that_never_works_fails_the_start_and_stops_what_started_beside_it(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    async with supervisor(tmp_path, warnings) as supervised:
        broken = "raise SystemExit('Error: no such option')"
        with pytest.raises(ServiceFailed, match="other ended with status 1: Error: no such option"):
            await supervised.start([program(LISTEN), program(broken, name="other")])
        assert supervised.running == []
        assert (tmp_path / "it.log").exists()


async def test_a_program_that_is_late_is_killed_and_said_to_be(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    async with supervisor(tmp_path, warnings) as supervised:
        sleeper = program("import signal; print('warming up', flush=True); signal.pause()", ready_seconds=5)
        with pytest.raises(ServiceFailed, match=r"it was not ready within 5 s: warming up"):
            await supervised.start([sleeper])


async def test_a_port_is_ours_until_its_program_takes_it_and_after_it_has_died(
    tmp_path: Path, warnings: Warnings, program: Program, ports: Ports
) -> None:
    [port] = ports.take(1)
    async with supervisor(tmp_path, warnings, patience=Patience(first_pause_seconds=60)) as supervised:
        await supervised.start([program(LISTEN, port=port)])
        kill(supervised.running[0][1])
        await warnings.until("starting it again")
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


async def test_what_a_dead_program_had_started_ends_with_it(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    said: list[str] = []
    code = f"import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True)\n{LISTEN}"
    async with supervisor(
        tmp_path, warnings, on_line=lambda name, stream, line: said.append(line)
    ) as supervised:
        await supervised.start([program(code, layer=Layer.WORKERS)])
        assert lives(int(said[0]))
        kill(supervised.running[0][1])
        await warnings.until("it works again")
        await gone([int(said[0])])
        assert lives(int(said[1]))
    await gone([int(said[1])])


async def test_layers_are_stopped_from_the_top_and_what_does_not_end_is_killed(
    tmp_path: Path, warnings: Warnings, program: Program
) -> None:
    said: list[str] = []
    async with supervisor(
        tmp_path, warnings, on_line=lambda name, stream, line: said.append(line)
    ) as supervised:
        [below] = await supervised.start([program(LISTEN)])
        code = SAYS_WHETHER.format(port=below.address.rpartition(":")[2])
        await supervised.start([program(code, name="above", layer=Layer.WORKERS)])
        await supervised.start([program(STUBBORN, name="stubborn", stop_seconds=0.2)])
        pids = [pid for _, pid in supervised.running]
    assert said == ["what is below still answers"]
    assert not any(map(lives, pids))


def test_what_was_started_ends_with_the_process_that_started_it(tmp_path: Path, ports: Ports) -> None:
    [port] = ports.take(1)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), LISTEN, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert lives(child)
    parent.kill()
    parent.communicate()
    asyncio.run(asyncio.wait_for(gone([child]), 60))


def test_a_program_whose_parent_has_gone_already_does_not_begin(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    command = [sys.executable, "-I", "-S", str(LAUNCH), str(ended.pid), "/bin/echo", "here"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "") and "has ended" in done.stderr


async def test_a_program_that_hangs_dumps_its_stacks_and_starts_again(
    tmp_path: Path, program: Program
) -> None:
    warnings = Warnings()
    supervisor = Supervisor(tmp_path, warn=warnings, patience=QUICK)
    hangs = program(HANGS, scheme="http")
    await supervisor.start([replace(hangs, alive=hangs.ready, silent_seconds=0.5)])
    try:
        await warnings.until("it hangs: no answer for 0.5 s; its stacks are in")
        await warnings.until("it was killed by SIGKILL")
        await warnings.until("it works again")
    finally:
        await supervisor.stop()
    assert "in spin_for_ever" in (tmp_path / "it.log").read_text()


def test_a_log_never_grows_over_its_bound(tmp_path: Path) -> None:
    lines: list[str] = []
    log = Log(tmp_path / "it.log", max_bytes=1_000, on_line=lambda stream, line: lines.append(line))
    for number in range(1_000):
        log.write("stdout", f"line {number}\nand ".encode())
    log.end("stdout")
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000
    assert lines[:2] == ["line 0", "and line 1"] and lines[-1] == "and" and len(log.tail) == 50


def test_a_full_disk_stops_no_program(tmp_path: Path) -> None:
    log = Log(tmp_path / "full")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        log.write("stderr", b"no space left\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.close()
    assert (tmp_path / "full").read_bytes() == b""
    assert list(log.tail) == ["no space left"]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    log = Log(tmp_path / "it.log")
    log.write("stdout", b"x" * 100_000)
    log.close()
    assert max(map(len, log.tail)) <= 100_000 and len(log.tail) == 1
