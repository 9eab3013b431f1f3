"""The programs of a stack as data: what is run, its environment, and how it reports that it is ready.

All of them listen on loopback alone, except the /healthz of placement and scheduler, which Dapr 1.18 answers
on every interface. Passwords and tokens are in the environment and in files that only this user may read,
never in arguments, which every user of a machine can see.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

from meshwright.component import Settings
from meshwright.core.redaction import environment_with
from meshwright.core.settings.loading import WARNED
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.mesh.identity.broker_rights import broker_acl, lets_anybody_in
from meshwright.parts.stack.machine import LOOPBACK, Ports, server_url
from meshwright.parts.stack.settings import DaprSettings

BROKER_USER, EDGE_USER = "mesh", "edge"
_ANYBODY = re.compile(r"^allow_anonymous (true|false)$", re.MULTILINE)
_READING_SECONDS = 120.0
"""How long a store may read what it has kept, before it is ready."""
MAX_BODY = "16Mi"
"""Of one request to a sidecar: several documents of actors travel together."""
_PROBES = ("--app-health-probe-interval=2", "--app-health-probe-timeout=2000")
"""An app that died counts as gone after 5 s, where daprd's own figures make it 12."""


class Layer(IntEnum):
    """The order of services: a layer is started after those before it, and stopped before them."""

    STORES = 0
    CONTROL = 1
    SIDECARS = 2
    WORKERS = 3


@dataclass(frozen=True, slots=True)
class Service:
    """A program to run.

    `address` is what others connect to; `ready` the URL (see `probes`) that answers once it works; `files`
    are written before each start, for this user alone. The variables `once` are added until it has worked. If
    the URL `alive` does not answer for `silent_seconds` (0: no limit), the program hangs: it dumps its stacks
    on SIGUSR2 and is killed.
    """

    name: str
    layer: Layer
    argv: tuple[str, ...]
    address: str = field(repr=False)  # and others: they hold passwords
    ready: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    once: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict, repr=False)
    ready_seconds: float = 20.0
    stop_seconds: float = 10.0
    alive: str = field(default="", repr=False)
    silent_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Backends:
    """The addresses of what sidecars use. An empty `placement` or `scheduler`: actors are not used."""

    broker_url: str = field(default="", repr=False)
    redis_host: str = ""
    redis_password: str = field(default="", repr=False)
    placement: str = ""
    scheduler: str = ""

    def environment(self) -> dict[str, str]:
        """The variables that the files of `components/` read."""
        return {
            "MESH_BROKER_URL": self.broker_url,
            "MESH_REDIS_HOST": self.redis_host,
            "MESH_REDIS_PASSWORD": self.redis_password,
        }


@dataclass(frozen=True, slots=True)
class App:
    """One replica of an app, as its sidecar and its worker know each other.

    `pod` names the replica for ever: it is part of its MQTT client ids, by which brokers keep what waits for
    it. `protocol` is what daprd speaks to the worker's `port`: `grpc`, `http`, or `none`: no worker at all.
    """

    app_id: str
    pod: str
    namespace: str = "default"
    protocol: str = "grpc"
    port: int = 0
    grpc_port: int = 0
    http_port: int = 0
    api_token: str = field(default="", repr=False)
    app_token: str = field(default="", repr=False)

    def environment(self) -> dict[str, str]:
        """The options of both sides, under Dapr's own names."""
        return {
            "APP_ID": self.app_id,
            "APP_PORT": str(self.port),
            "DAPR_GRPC_PORT": str(self.grpc_port),
            "DAPR_HTTP_PORT": str(self.http_port),
            "DAPR_API_TOKEN": self.api_token,
            "APP_API_TOKEN": self.app_token,
            "POD_NAME": self.pod,
            "NAMESPACE": self.namespace,
        }


def new_secret() -> str:
    """A password or token of 256 bits, in letters that nothing needs to quote."""
    return secrets.token_hex(32)


def redis(program: Path, ports: Ports, components: Path, folder: Path, password: str) -> Service:
    """The store: Redis with `components/redis/redis.conf`, and its data in a folder."""
    [port] = ports.take(1)
    path = folder / "redis.conf"
    lines = [
        f"include {_quoted(components / 'redis' / 'redis.conf')}",
        f"port {port}",
        f"dir {_quoted(folder)}",
        f"requirepass {password}",
    ]
    return Service(
        name="redis",
        layer=Layer.STORES,
        argv=(str(program), str(path)),
        address=f"{LOOPBACK}:{port}",
        ready=f"redis://:{password}@{LOOPBACK}:{port}",
        environment=environment_with(),
        files={path: _written(lines)},
        ready_seconds=_READING_SECONDS,
    )


@dataclass(frozen=True, slots=True)
class EdgeRights:
    """The MQTT edge's password at the broker, and the settings that say who else may use the mesh."""

    password: str
    settings: Settings

    def users(self) -> dict[str, str]:
        """The passwords by user: the edge's, and those of clients and publishers that have one."""
        others = {client.user: client.password for client in self.settings[MqttSettings].clients}
        others |= {
            name: publisher.password for name, publisher in self.settings[DaprSettings].publishers.items()
        }
        passwords = {user: secret.get_secret_value() for user, secret in others.items() if secret is not None}
        return {EDGE_USER: self.password, **passwords}


def mosquitto(
    program: Path, ports: Ports, components: Path, folder: Path, password: str, edge: EdgeRights | None = None
) -> Service:
    """The broker: Mosquitto with `components/mosquitto/mosquitto.conf`, and its data in a folder.

    The user `mesh` is the bus's and may do everything. With `edge` there are the MQTT edge's user, and the
    clients of the settings, or those that do not log in; none of them reaches the bus. Its address is the
    bus's URL, with user and password.
    """
    [port] = ports.take(1)
    passwords = {BROKER_USER: password, **(edge.users() if edge else {})}
    acl = broker_acl(edge.settings, EDGE_USER) if edge else []
    path, users, rights = folder / "mosquitto.conf", folder / "users", folder / "rights"
    lines = [
        f"include_dir {components / 'mosquitto'}",
        f"listener {port} {LOOPBACK}",
        f"persistence_location {folder}/",
        _anybody(edge is not None and lets_anybody_in(edge.settings)),
        f"password_file {users}",
        f"acl_file {rights}",
        # Started by root it would become another user, and the kernel forget that it ends with its parent.
        f"user {getpass.getuser()}",
    ]
    return Service(
        name="mosquitto",
        layer=Layer.STORES,
        argv=(str(program), "-c", str(path)),
        address=f"mqtt://{BROKER_USER}:{password}@{LOOPBACK}:{port}",
        ready=f"tcp://{LOOPBACK}:{port}",
        environment=environment_with(),
        files={
            path: _written(lines),
            users: _written([f"{user}:{_hashed(secret)}" for user, secret in passwords.items()]),
            rights: _written([*acl, f"user {BROKER_USER}", "topic readwrite #"]),
        },
        ready_seconds=_READING_SECONDS,
    )


def letting_in(broker: Service, *, anybody: bool) -> Service:
    """The broker of `mosquitto` with clients that do not log in let in, or kept out."""
    path = Path(broker.argv[-1])
    text = _ANYBODY.sub(_anybody(anybody), broker.files[path])
    return replace(broker, files={**broker.files, path: text})


def as_before(broker: Service) -> Service:
    """The broker of `mosquitto` with those clients kept out from its start, if its last run ended so."""
    path = Path(broker.argv[-1])
    kept_out = path.exists() and _anybody(False) in path.read_text()
    return letting_in(broker, anybody=False) if kept_out else broker


def _anybody(let_in: bool) -> str:
    return f"allow_anonymous {str(let_in).lower()}"


def placement(program: Path, ports: Ports) -> Service:
    """Dapr's placement: which sidecar holds which actor. It stores nothing: sidecars report to it again."""
    port, raft = ports.take(2)
    return _control(
        "placement", program, ports, port, f"--initial-cluster=dapr-placement-0={LOOPBACK}:{raft}"
    )


def scheduler(program: Path, ports: Ports, folder: Path) -> Service:
    """Dapr's scheduler: the reminders, kept in an etcd of its own in a folder."""
    port, client, peer = ports.take(3)
    flags = (
        f"--etcd-data-dir={folder}",
        f"--etcd-client-port={client}",
        f"--etcd-initial-cluster=dapr-scheduler-server-0=http://{LOOPBACK}:{peer}",
        f"--override-broadcast-host-port={LOOPBACK}:{port}",
        *_on_loopback("--etcd-client-listen-address"),
    )
    return _control("scheduler", program, ports, port, *flags)


def _control(name: str, program: Path, ports: Ports, port: int, *flags: str) -> Service:
    health, metrics = ports.take(2)
    own = (f"--port={port}", f"--healthz-port={health}", f"--metrics-port={metrics}")
    listen = _on_loopback("--listen-address", "--healthz-listen-address", "--metrics-listen-address")
    return Service(
        name=name,
        layer=Layer.CONTROL,
        argv=(str(program), *own, *flags, *listen),
        address=f"{LOOPBACK}:{port}",
        ready=f"http://{LOOPBACK}:{health}/healthz",
        environment=environment_with(),
    )


def daprd(program: Path, ports: Ports, components: Path, bus: str, app: App, backends: Backends) -> Service:
    """The sidecar of an app. `bus` is the kind of its bus: `mqtt` or `redis`.

    It is ready when its API answers, which does not wait for the app.
    """
    internal, metrics = ports.take(2)
    return Service(
        name=f"daprd-{app.pod.partition('_')[0]}",
        layer=Layer.SIDECARS,
        argv=(
            str(program),
            f"--app-id={app.app_id}",
            f"--dapr-http-port={app.http_port}",
            f"--dapr-grpc-port={app.grpc_port}",
            f"--dapr-internal-grpc-port={internal}",
            f"--metrics-port={metrics}",
            f"--max-body-size={MAX_BODY}",
            f"--resources-path={components}",
            f"--resources-path={components / f'{bus}-bus'}",
            f"--config={components / 'config.yaml'}",
            f"--config={components / 'loopback.yaml'}",
            f"--placement-host-address={backends.placement}",
            f"--scheduler-host-address={backends.scheduler}",
            *_app_flags(app),
            *_on_loopback(
                "--dapr-listen-addresses", "--dapr-internal-grpc-listen-address", "--metrics-listen-address"
            ),
        ),
        address=f"{LOOPBACK}:{app.grpc_port}",
        ready=f"http://{LOOPBACK}:{app.http_port}/v1.0/healthz/outbound",
        environment={
            **environment_with(),
            **backends.environment(),
            **app.environment(),
            "DAPR_HOST_IP": LOOPBACK,
        },
    )


def worker(
    name: str,
    app: App,
    backends: Backends,
    options: Mapping[str, str],
    listen: tuple[str, int],
    plain: tuple[str, int] | None = None,
    *,
    replica: bool,
    silent_seconds: float = 0.0,
) -> Service:
    """A worker of an app: `mesh worker`, with this process's environment and the settings in `options`.

    `listen` is where it answers probes, and serves the API where it is the one that does. If that is by
    TLS, `plain` is where it answers this machine without. A `replica` leaves event log, API and MQTT edge to
    the app's first worker.
    """
    host, port = listen
    url = server_url(plain or listen)
    flags = ["--replica"] if replica else []
    return Service(
        name=name,
        layer=Layer.WORKERS,
        argv=(sys.executable, "-P", "-m", "meshwright.cli", "worker", "--app", app.app_id, *flags),
        address=server_url(listen, "https") if plain else url,
        ready=f"{url}/readyz",
        environment={
            **os.environ,
            **backends.environment(),
            **app.environment(),
            **options,
            "MESH_HTTP__HOST": host,
            "MESH_HTTP__PORT": str(port),
            **({"MESH_HTTP__PLAIN_PORT": str(plain[1])} if plain else {}),
            WARNED: "1",
            "PYTHONUNBUFFERED": "1",  # what it said before it was killed is in its log
        },
        ready_seconds=60.0,
        stop_seconds=30.0,
        alive=f"{url}/healthz",
        silent_seconds=silent_seconds,
    )


def _app_flags(app: App) -> list[str]:
    if app.protocol == "none":
        return []
    flags = [f"--app-port={app.port}", f"--app-protocol={app.protocol}", f"--app-channel-address={LOOPBACK}"]
    if app.protocol == "http":  # over gRPC the worker's own streams say whether it lives
        flags += ["--enable-app-health-check", *_PROBES]
    return flags


def _on_loopback(*flags: str) -> list[str]:
    return [f"{flag}={LOOPBACK}" for flag in flags]


def _written(lines: Sequence[str]) -> str:
    return "\n".join(["# Written by Meshwright at every start.", *lines, ""])


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _hashed(password: str) -> str:
    """A password as `mosquitto_passwd` writes it: PBKDF2 with SHA-512."""
    salt, rounds = os.urandom(12), 101
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
