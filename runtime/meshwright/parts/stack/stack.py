"""The stack of a mesh on Dapr: store, broker and control plane, then each worker with its sidecar."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from meshwright.component import Settings
from meshwright.core.errors import StoreFailed
from meshwright.edges.http.settings import HttpSettings, WatchdogSettings
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.engine.sql.folder import SECRET_KEY
from meshwright.engine.sql.meta import HELD, read_note
from meshwright.engine.sql.sqlite import FILE_NAME, SqliteDatabase
from meshwright.mesh.identity.broker_rights import lets_anybody_in
from meshwright.mesh.identity.settings import KeysSettings, SecretsSettings
from meshwright.parts.stack import services
from meshwright.parts.stack.checks import check_backends, choose_channel
from meshwright.parts.stack.component_files import check_types, known_types
from meshwright.parts.stack.machine import (
    LOOPBACK,
    Ports,
    answers,
    daprd_version,
    find_program,
    front_folder,
    server_url,
)
from meshwright.parts.stack.services import EDGE_USER, App, Backends, EdgeRights, Service, new_secret
from meshwright.parts.stack.settings import DaprSettings
from meshwright.parts.stack.supervisor import Supervisor

MESH = "mesh"
"""The app that holds everything, where agents are not apart."""
_LLM_SERVICE = "llm-service"
_LOOK_SECONDS = 1.0
_INVOCATION = "invocation"
"""The folder of the HTTPEndpoint by which clients of Dapr on this machine reach the llm-service. daprd calls
a worker over gRPC, which has no room for a status and a body of its own, so this names the HTTP port."""


@dataclass(frozen=True, slots=True)
class AppSpec:
    """An app and its number of workers. The first of a `front` holds event log, API and MQTT edge."""

    app_id: str
    workers: int = 1
    front: bool = False


def one_app(workers: int) -> list[AppSpec]:
    """All agents in each worker of one app."""
    return [AppSpec(MESH, workers, front=True)]


def app_per_agent(agents: Sequence[str], workers: int) -> list[AppSpec]:
    """Each agent in an app of its own, and so the parts of the mesh."""
    apart = [AppSpec(name, workers) for name in ("orchestrator", "context-service", *agents)]
    return [*apart, AppSpec("event-logger", front=True)]


class Row(NamedTuple):
    """A service and its address. `process` is empty for one that was given by its address."""

    name: str
    address: str
    process: str


class Stack:
    """The services of one mesh. `warn` gets a line for each promise that does not hold.

    Raises ServiceFailed where a program is missing, and ConfigError for a component of a type that daprd does
    not know, before anything is started. Stop what it has started by
    the supervisor.
    """

    def __init__(
        self,
        settings: Settings,
        apps: Sequence[AppSpec],
        *,
        components: Path,
        ports: Ports,
        supervisor: Supervisor,
        warn: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._apps = apps
        self._components = components
        self._ports = ports
        self._supervisor = supervisor
        self._warn = warn
        self._redis_password, self._edge_password = new_secret(), new_secret()
        self._daprd = find_program("daprd", settings[DaprSettings].bin)
        if (known := known_types(self._daprd)) is not None:
            check_types(components, settings[DaprSettings].bus, known)
        self._given = self.backends = Backends(
            broker_url=_text(settings[DaprSettings].broker_url)
            if settings[DaprSettings].bus == "mqtt"
            else "",
            redis_host=settings[DaprSettings].redis_host or "",
            redis_password=_text(settings[DaprSettings].redis_password),
            placement=settings[DaprSettings].placement or "",
            scheduler=settings[DaprSettings].scheduler or "",
        )
        self._missing = self._missing_backends()
        self._channel, findings = choose_channel(settings, daprd_version(self._daprd))
        front = next(app for app in apps if app.front)
        self._models = next((app for app in apps if app.app_id == _LLM_SERVICE), front)
        [self._models_port] = ports.take(1)
        self._plain = {app.app_id: (LOOPBACK, ports.take(1)[0]) for app in (front, self._models)}
        if settings[HttpSettings].tls_cert is None:
            self._plain.clear()
        self.url = self.local_url = ""
        for line in findings:
            warn(line)
        for client in () if self._given.broker_url else settings[MqttSettings].clients:
            if client.password is None:
                warn(f"mqtt.clients: {client.user} has no password, and cannot log in at the broker")
        if self._given.broker_url and not (settings[MqttSettings].url or settings[MqttSettings].username):
            warn("the MQTT edge logs in with the bus's user: set mqtt.username to one that cannot reach bus/")

    async def start_backends(self) -> None:
        """Start those of broker, store, placement and scheduler that are not given, and check them.

        Raises ServiceFailed where one cannot be used.
        """

        started = await self._supervisor.start([make() for make in self._missing.values()])
        addresses = {field: service.address for field, service in zip(self._missing, started, strict=True)}
        if "redis_host" in addresses:
            addresses["redis_password"] = self._redis_password
        self.backends = replace(self.backends, **addresses)
        for line in await check_backends(self._settings, self._components, self.backends):
            self._warn(line)

    async def start_workers(self) -> None:
        """Start every worker with its sidecar; first the front, if it holds the mesh. Raises ServiceFailed.

        Then `url` is the API's, and `local_url` where it answers this machine without TLS.
        """
        workers = [(app, number) for app in self._apps for number in range(app.workers)]
        if self._is_to_be_held():
            front = next((app, number) for app, number in workers if app.front)
            workers.remove(front)
            await self._start_worker(*front)
        try:
            async with asyncio.TaskGroup() as group:
                for app, number in workers:
                    group.create_task(self._start_worker(app, number))
        except ExceptionGroup as errors:  # the first error ends the others' starts
            raise errors.exceptions[0] from None

    def _is_to_be_held(self) -> bool:
        """Whether the front holds the mesh as it starts: so the settings say, or it was restored."""
        hold, folder = self._settings.table("maintenance").hold, front_folder(self._settings.data_dir)
        if hold is not None or folder is None or not (folder / FILE_NAME).exists():
            return bool(hold)
        try:
            with closing(SqliteDatabase(folder).connect_reader()) as session:
                return read_note(session, HELD) is not None
        except sqlite3.Error:
            return False  # the front says what is wrong with it

    async def keep_rights(self) -> NoReturn:
        """Keep clients that do not log in from our broker while requests need credentials.

        The front is asked every second: a key may be created, or the mesh opened, in any way at any time.
        """
        while True:
            with suppress(OSError, StoreFailed):  # a full disk: it is tried again
                await self.set_rights()
            await asyncio.sleep(_LOOK_SECONDS)

    async def set_rights(self) -> None:
        """Let those clients in or keep them out, if that has changed. Raises OSError, StoreFailed."""
        broker = next((item for item, _ in self._supervisor.running if item.name == "mosquitto"), None)
        if broker is None or not lets_anybody_in(self._settings):
            return  # it is not ours, or the settings keep them out
        if not await answers(f"{self.local_url}/healthz"):
            return
        anybody = await answers(f"{self.local_url}/agents")
        if (changed := services.letting_in(broker, anybody=anybody)) != broker:
            self._supervisor.reconfigure(changed)

    def rows(self) -> list[Row]:
        """The services, each after those that it rests on."""
        options = self._given
        addresses = (options.broker_url, options.redis_host, options.placement, options.scheduler)
        names = ("broker", "redis", "placement", "scheduler")
        rows = [Row(name, _shown(at), "") for name, at in zip(names, addresses, strict=True) if at]
        running = sorted(self._supervisor.running, key=lambda pair: pair[0].layer)
        return rows + [Row(service.name, _shown(service.address), str(pid)) for service, pid in running]

    def _missing_backends(self) -> Mapping[str, Callable[[], Service]]:
        settings, ports, components = self._settings, self._ports, self._components
        folder = settings.data_dir.absolute()
        edge = EdgeRights(self._edge_password, settings)
        specs: dict[str, tuple[str, Callable[[Path], Service]]] = {
            "broker_url": (
                "mosquitto",
                lambda path: services.as_before(
                    services.mosquitto(path, ports, components, folder / "mosquitto", new_secret(), edge)
                ),
            ),
            "redis_host": (
                "redis-server",
                lambda path: services.redis(path, ports, components, folder / "redis", self._redis_password),
            ),
            "placement": ("placement", lambda path: services.placement(path, ports)),
            "scheduler": ("scheduler", lambda path: services.scheduler(path, ports, folder / "scheduler")),
        }
        return {
            field: partial(make, find_program(program, settings[DaprSettings].bin))
            for field, (program, make) in specs.items()
            if not getattr(self._given, field)
            and (field != "broker_url" or settings[DaprSettings].bus == "mqtt")
        }

    async def _start_worker(self, app: AppSpec, number: int) -> None:
        pair = self._pair(app, number)
        _, worker = await self._supervisor.start(pair)
        if app.front and number == 0:
            self.url, self.local_url = worker.address, worker.alive.removesuffix("/healthz")

    def _pair(self, spec: AppSpec, number: int) -> tuple[Service, Service]:
        settings, name = self._settings, f"{spec.app_id}-{number}"
        port, grpc_port, http_port = self._ports.take(3)
        front = spec.front and number == 0
        app = App(
            app_id=spec.app_id,
            pod=f"{name}_{settings[DaprSettings].namespace}",  # NATS takes no dot in a client id
            namespace=settings[DaprSettings].namespace,
            protocol=self._channel,
            port=port,
            grpc_port=grpc_port,
            http_port=http_port,
            api_token=new_secret(),
            app_token=new_secret(),
        )
        options = {
            **(self._edge_options() if front else {}),
            "MESH_STORE": "dapr",
            "MESH_DATA_DIR": str(settings.data_dir.absolute() / name),
            "MESH_DAPR__NAMESPACE": settings[DaprSettings].namespace,
            "MESH_DAPR__BUS": settings[DaprSettings].bus,
            "MESH_DAPR__CHANNEL": self._channel,
            "MESH_ACCEPT_LOSS": str(settings.accept_loss),
            "MESH_LOG_LEVEL": settings.log_level,
            "MESH_LOG_FORMAT": settings.log_format,
            "MESH_SECRETS__FILE": str(
                settings[SecretsSettings].file or settings.data_dir.absolute() / SECRET_KEY
            ),
        }
        if settings.database is not None:
            options["MESH_DATABASE"] = settings.database.get_secret_value()
        if front or (spec is self._models and number == 0):
            options["MESH_HTTP__BEHIND_TLS"] = str(settings[HttpSettings].behind_tls).lower()
            options["MESH_HTTP__INSECURE"] = str(settings[HttpSettings].insecure).lower()
            if (token := settings[KeysSettings].admin_token) is not None:
                options["MESH_ADMIN_TOKEN"] = token.get_secret_value()
        sidecar = services.daprd(
            self._daprd, self._ports, self._components, settings[DaprSettings].bus, app, self.backends
        )
        worker = services.worker(
            name,
            app,
            self.backends,
            options,
            self._listen(spec, number),
            self._plain.get(spec.app_id) if number == 0 else None,
            replica=spec.front and not front,
            silent_seconds=settings[WatchdogSettings].restart_seconds,
        )
        hold = settings.table("maintenance").hold
        once = {} if hold is None or not front else {"MESH_MAINTENANCE__HOLD": str(hold).lower()}
        return self._reaching_models(sidecar), replace(worker, once=once)

    def _reaching_models(self, sidecar: Service) -> Service:
        folder = self._settings.data_dir.absolute() / _INVOCATION
        models = self._plain.get(self._models.app_id) or self._listen(self._models, 0)
        endpoint = {
            "apiVersion": "dapr.io/v1alpha1",
            "kind": "HTTPEndpoint",
            "metadata": {"name": _LLM_SERVICE},
            "spec": {"baseUrl": server_url(models)},
        }
        return replace(
            sidecar,
            argv=(*sidecar.argv, f"--resources-path={folder}"),
            files={**sidecar.files, folder / f"{_LLM_SERVICE}.yaml": json.dumps(endpoint, indent=2) + "\n"},
        )

    def _edge_options(self) -> dict[str, str]:
        """The MQTT edge's login at the broker of the bus, unless the settings name another.

        At a broker that was started here it has a user of its own, which the bus is closed to.
        """
        config, broker_url = self._settings[MqttSettings], self.backends.broker_url
        if config.url or not broker_url:
            return {"MESH_MQTT__URL": config.url} if config.url else {}
        where = urlsplit(broker_url)
        user, password = unquote(where.username or ""), unquote(where.password or "")
        if not self._given.broker_url:
            user, password = EDGE_USER, self._edge_password
        elif config.username:
            user, password = config.username, _text(config.password)
        return {
            "MESH_MQTT__URL": _shown(broker_url),
            "MESH_MQTT__USERNAME": user,
            "MESH_MQTT__PASSWORD": password,
        }

    def _listen(self, app: AppSpec, number: int) -> tuple[str, int]:
        """The address at which a worker serves HTTP. That of the models is known before any worker starts."""
        offers_models = app is self._models and number == 0
        port = self._models_port if offers_models else self._ports.take(1)[0]
        if app.front and number == 0:
            return self._settings[HttpSettings].host, self._settings[HttpSettings].port or port
        return LOOPBACK, port


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _shown(address: str) -> str:
    where = urlsplit(address)
    return f"{where.scheme}://{where.netloc.rpartition('@')[2]}" if "@" in where.netloc else address
