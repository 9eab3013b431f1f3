"""What the stack runs, as data: programs, where they are, and how sidecar and worker know each other."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path


class Layer(IntEnum):
    """What rests on what: a layer is started after those before it, and stopped before them."""

    STORES = 0
    CONTROL = 1
    SIDECARS = 2
    WORKERS = 3


@dataclass(frozen=True, slots=True)
class Service:
    """A program to run.

    `address` is what others are told; `ready` the URL (see `probes`) that answers once it works; `files` are
    written before each start, for this user alone. Where the URL `alive` does not answer for `silent_seconds`
    (0: never mind) it hangs: it dumps its stacks on SIGUSR2, and is killed. Times in seconds.
    """

    name: str
    layer: Layer
    argv: tuple[str, ...]
    address: str = field(repr=False)  # and others: they hold passwords
    ready: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[Path, str] = field(default_factory=dict, repr=False)
    ready_seconds: float = 20.0
    stop_seconds: float = 10.0
    alive: str = field(default="", repr=False)
    silent_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Backends:
    """Where the services are that sidecars use. An empty `placement` or `scheduler`: actors are not used."""

    broker_url: str = field(default="", repr=False)
    redis_host: str = ""
    redis_password: str = field(default="", repr=False)
    placement: str = ""
    scheduler: str = ""

    def environment(self) -> dict[str, str]:
        """What the files of `components/` read."""
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
        """What both sides are told, under Dapr's own names."""
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
