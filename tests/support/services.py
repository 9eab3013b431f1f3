"""Real services for tests: Redis, Mosquitto, Dapr's placement and scheduler, and a daprd for each test.

    async def test_it(services: Services) -> None:
        url = services.broker_url                 # mqtt://user:password@127.0.0.1:port; starts a broker
        async with services.sidecar("mesh", port=app_port) as sidecar:      # a daprd, ready
            sidecar.app.grpc_port, sidecar.app.api_token, sidecar.app.environment()
            sidecar.kill()                             # kill -9
            await sidecar.start()                      # again: same ports, names and tokens

`services` lives as long as the pytest process and is shared, so a test takes a namespace, topics and keys
of its own (`sidecar` makes a namespace up where none is given). `own_services` belongs to one test, which may
kill what is in it: `own_services.kill("redis")`, `own_services.start_again("redis")`. Both start a service
when it is asked for first, as the product would start it, with its data in a folder of the test.

Uses, in this order: an address in the environment (MESH_BROKER_URL, MESH_REDIS_HOST with
MESH_REDIS_PASSWORD, MESH_PLACEMENT, MESH_SCHEDULER), a program of this machine, a container where Docker
answers and `testcontainers` is installed. Without one the test is skipped with the reason, and under
REQUIRE_TIERS=all it fails. Ask for services from the main thread: programs end with the thread that
started them.
"""

import asyncio
import functools
import importlib.util
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from meshwright.core.errors import ServiceFailed
from meshwright.parts.stack.machine import Ports, find_program, until_it_answers
from meshwright.parts.stack.services import (
    App,
    Backends,
    EdgeRights,
    Service,
    daprd,
    mosquitto,
    new_secret,
    placement,
    redis,
    scheduler,
)
from meshwright.parts.stack.supervisor import service_command, write_files
from tests.support.settings import Settings

COMPONENTS = Path(__file__).parents[2] / "components"
VARIABLES = {
    "mosquitto": "MESH_BROKER_URL",
    "redis": "MESH_REDIS_HOST",
    "placement": "MESH_PLACEMENT",
    "scheduler": "MESH_SCHEDULER",
}
PASSWORD = "MESH_REDIS_PASSWORD"
BINARIES = "MESH_DAPR_BIN"
HANDED_ON = "TESTS_"
"""Begins the names that what was given has once pytest has cleaned the environment of settings: the processes
that run tests side by side start from it."""
GIVEN = {
    name: value
    for name in (*VARIABLES.values(), PASSWORD, BINARIES)
    if (value := os.environ.get(name) or os.environ.get(HANDED_ON + name))
}
DAPR_BIN = GIVEN.get(BINARIES)
TAIL_LINES = 20
READY_SECONDS = 60.0
"""A start takes longer beside other tests than its service allows where it has the machine to itself."""


@functools.cache
def program(name: str) -> Path:
    """The path of a program of the stack. Raises ServiceFailed."""
    return find_program(name, Path(DAPR_BIN) if DAPR_BIN else None)


class Process:
    """A program of the stack, kept by nobody: a test starts, kills and starts it again."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.service.name} was not started"
        return self._process.pid

    def launch(self) -> None:
        write_files(self.service)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                service_command(self.service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.service.environment),
                start_new_session=True,
            )

    def start(self) -> None:
        """Launch it, and return once it is ready."""
        self.launch()
        with ThreadPoolExecutor(1) as pool:  # this thread may have a loop of its own that runs
            pool.submit(asyncio.run, self.ready()).result()

    def failure(self) -> str | None:
        if self._process is None or self._process.poll() is None:
            return None
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return f"{self.service.name} ended with {self._process.returncode}:\n" + "\n".join(lines)

    def kill(self) -> None:
        """Kill -9, now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and see to it that it does."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self.service.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    async def ready(self) -> None:
        """Wait until it works. Fails the test if it ends instead, or takes too long."""
        ready = asyncio.create_task(until_it_answers(self.service.ready))
        async with asyncio.timeout(max(self.service.ready_seconds, READY_SECONDS)):
            while not ready.done():
                if (failure := self.failure()) is not None:
                    ready.cancel()
                    pytest.fail(failure, pytrace=False)
                await asyncio.wait([ready], timeout=0.01)


class Sidecar:
    """A daprd that stands beside a test's app."""

    def __init__(self, app: App, process: Process, ports: Ports) -> None:
        self.app = app
        self._process = process
        self._ports = ports

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """All it has said."""
        return self._process.log.read_text(errors="replace")

    def launch(self) -> None:
        """Start it, and do not wait: it may wait for its app."""
        self._process.launch()

    async def start(self) -> None:
        """Start it, or start it again after `kill` or `stop`; it is ready when this returns."""
        self._process.launch()
        await self._process.ready()

    async def start_in_vain(self) -> None:
        """Start it, and wait until it has ended by itself."""
        self._process.launch()
        async with asyncio.timeout(self._process.service.ready_seconds):
            while self._process.failure() is None:
                await asyncio.sleep(0.01)
        self.end()

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._process.stop()

    def end(self) -> None:
        """Be done with it, its ports included."""
        self._process.kill()
        self._ports.close()


class Services:
    """Services that are started when they are asked for, and killed at the end."""

    def __init__(
        self, folder: Path, given: dict[str, str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Services whose programs, but for Dapr's, have some variables in their environment."""
        self.folder = folder
        self.environment = environment or {}
        self.ports = Ports()
        self._running: dict[str, Process] = {}
        self._addresses = {name: given[variable] for name, variable in VARIABLES.items() if variable in given}
        self._containers: list[Any] = []
        self._numbers = itertools.count(1)
        self.redis_password = given.get(PASSWORD, "" if "redis" in self._addresses else new_secret())
        self.edge_password = new_secret()
        self._recipes: dict[str, Callable[[], Service]] = {
            "redis": lambda: redis(
                program("redis-server"), self.ports, COMPONENTS, folder / "redis", self.redis_password
            ),
            "mosquitto": lambda: mosquitto(
                program("mosquitto"),
                self.ports,
                COMPONENTS,
                folder / "mosquitto",
                new_secret(),
                EdgeRights(self.edge_password, Settings()),
            ),
            "placement": lambda: placement(program("placement"), self.ports),
            "scheduler": lambda: scheduler(program("scheduler"), self.ports, folder / "scheduler"),
        }

    @property
    def redis_host(self) -> str:
        """Redis, as host:port; `redis_password` is its password."""
        return self._address("redis")

    @property
    def broker_url(self) -> str:
        """The MQTT broker, with user and password. Below `mesh/` nobody needs to log in."""
        return self._address("mosquitto")

    @property
    def placement(self) -> str:
        """Dapr's placement, as host:port."""
        return self._address("placement")

    @property
    def scheduler(self) -> str:
        """Dapr's scheduler, as host:port."""
        return self._address("scheduler")

    def daprd(
        self,
        app_id: str,
        *,
        bus: str = "mqtt",
        actors: bool = True,
        components: Path = COMPONENTS,
        **app: Any,
    ) -> "Sidecar":
        """A daprd that is not started yet, to be ended with `end`. Options as for `sidecar`."""
        backends = Backends(
            broker_url=self.broker_url if bus == "mqtt" else "",
            redis_host=self.redis_host,
            redis_password=self.redis_password,
            placement=self.placement if actors else "",
            scheduler=self.scheduler if actors else "",
        )
        ports = Ports()
        grpc_port, http_port = ports.take(2)
        namespace = app.pop("namespace", None) or f"test-{new_secret()[:8]}"
        known = App(
            **{
                "app_id": app_id,
                "namespace": namespace,
                "pod": f"{app_id}-0_{namespace}",
                "protocol": "grpc" if app.get("port") else "none",
                "grpc_port": grpc_port,
                "http_port": http_port,
                "api_token": new_secret(),
                "app_token": new_secret(),
            }
            | app
        )
        service = daprd(self.program("daprd"), ports, components, bus, known, backends)
        return Sidecar(known, self._process(service), ports)

    @asynccontextmanager
    async def sidecar(self, app_id: str = "mesh", **options: Any) -> AsyncIterator["Sidecar"]:
        """A daprd that is ready, stopped at the end.

        `bus`: "mqtt" or "redis"; `actors`: False needs neither placement nor scheduler; the rest are fields
        of `App`: `port` of the test's app and `protocol` ("grpc" or "http"; without a port there is no app),
        `namespace`, `pod`, ...
        """
        sidecar = self.daprd(app_id, **options)
        try:
            await sidecar.start()
            yield sidecar
        finally:
            sidecar.end()

    def run(self, service: Service) -> Process:
        """Start a service of the test's own making; it is ready when this returns."""
        process = self._running[f"{service.name}-{next(self._numbers)}"] = self._process(service)
        self._start(process)
        return process

    def program(self, name: str) -> Path:
        """The path of a program of the stack. Skips the test where it is not on this machine."""
        try:
            return program(name)
        except ServiceFailed as error:
            unavailable(str(error))

    def kill(self, name: str) -> None:
        """Kill -9 a service: redis, mosquitto, placement or scheduler."""
        self._running[name].kill()

    def pid(self, name: str) -> int:
        """The process of a service that runs."""
        return self._running[name].pid

    def has_ended(self, name: str) -> bool:
        """Whether a service that was started has ended, by itself or not."""
        return self._running[name].failure() is not None

    def start_again(self, name: str) -> None:
        """Start a service that was killed, where it was before."""
        self._start(self._running[name])

    def close(self) -> None:
        """Kill them all: nothing that they hold is needed any more."""
        for process in reversed(self._running.values()):
            process.kill()
        for container in self._containers:
            container.stop()
        self.ports.close()

    def _address(self, name: str) -> str:
        if name not in self._addresses:
            self._addresses[name] = self._begin(name)
        return self._addresses[name]

    def _begin(self, name: str) -> str:
        """Start a service, from a program or in a container, and return its address."""
        try:
            service = self._recipes[name]()
        except ServiceFailed as error:
            return self._contain(name) or unavailable(str(error))
        self._running[name] = self._process(service)
        self._start(self._running[name])
        return service.address

    def _start(self, process: Process) -> None:
        process.start()

    def _process(self, service: Service) -> Process:
        service = replace(service, environment={**service.environment, **self.environment})
        return Process(service, self.folder / "logs" / f"{next(self._numbers)}-{service.name}.log")

    def _contain(self, name: str) -> str | None:
        """Its address in a container, where there are containers."""
        if name not in IMAGES or not docker_answers():
            return None
        from testcontainers.core.container import DockerContainer

        image, port, command = IMAGES[name]
        container = DockerContainer(image).with_exposed_ports(port)
        container = container.with_command(command.format(password=self.redis_password))
        self._containers.append(container.start())
        address = f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
        return f"mqtt://{address}" if name == "mosquitto" else address


IMAGES = {
    "redis": ("redis:7", 6379, "redis-server --appendonly yes --appendfsync always --requirepass {password}"),
    "mosquitto": ("eclipse-mosquitto:2.0", 1883, "mosquitto -c /mosquitto-no-auth.conf"),
}
"""Image, port and command of what may run in a container."""


def docker_answers() -> bool:
    if importlib.util.find_spec("testcontainers") is None or shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
    return asked.returncode == 0


def unavailable(reason: str) -> NoReturn:
    """Skip the test that needs what is not here, or fail it where nothing may be left out."""
    if os.environ.get("REQUIRE_TIERS") == "all":
        pytest.fail(f"{reason}; and every tier is required", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def dapr_bin() -> str:
    """The folder of Dapr's programs, for tests that start a whole `mesh`."""
    try:
        return str(program("daprd").parent)
    except ServiceFailed as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services that all tests share: nobody may kill them."""
    services = Services(tmp_path_factory.mktemp("services"), GIVEN)
    yield services
    services.close()


@pytest.fixture
def own_services(tmp_path: Path) -> Iterator[Services]:
    """Services of this test alone, to kill and start again. Never one of the environment's."""
    services = Services(tmp_path / "services", {})
    yield services
    services.close()
