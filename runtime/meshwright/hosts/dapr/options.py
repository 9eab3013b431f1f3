"""Where a host on Dapr finds its sidecar, and by which names it is known there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshwright.errors import ConfigError

ChannelName = Literal["auto", "grpc", "http"]


@dataclass(frozen=True, slots=True)
class Options:
    """One worker's place on Dapr.

    `app_id` names what replicas share, `replica` this one of them, `namespace` the mesh. `grpc_port` is the
    sidecar's, `app_port` ours. `api_token` is what the sidecar wants of us, `app_token` what we want of it.
    `broker_url` is the MQTT broker's, where the bus is one: see `kick`. Times are seconds.
    """

    app_id: str = "mesh"
    replica: str = "mesh-0"
    namespace: str = "default"
    grpc_port: int = 50001
    app_port: int = 0
    channel: ChannelName = "auto"
    api_token: str = field(default="", repr=False)
    app_token: str = field(default="", repr=False)
    broker_url: str | None = field(default=None, repr=False)
    lease_seconds: float = 10.0
    renew_seconds: float = 3.0
    redrive_seconds: float = 5.0
    patience_seconds: float = 20.0
    """How long a call or a commit waits for a sidecar or a store that does not answer."""
    ready_seconds: float = 60.0
    """How long `start` waits for the sidecar."""

    @classmethod
    def from_environment(
        cls, *, namespace: str, channel: ChannelName, environment: Mapping[str, str] | None = None
    ) -> Options:
        """Read what Dapr tells its apps: APP_ID, APP_PORT, DAPR_GRPC_PORT, POD_NAME and the tokens.

        Raises ConfigError where a port is missing or is no number.
        """
        known = os.environ if environment is None else environment
        app_id = known.get("APP_ID") or "mesh"
        return cls(
            app_id=app_id,
            replica=known.get("POD_NAME") or f"{app_id}-0",
            namespace=namespace,
            grpc_port=_port(known, "DAPR_GRPC_PORT", "50001"),
            app_port=_port(known, "APP_PORT", None),
            channel=channel,
            api_token=known.get("DAPR_API_TOKEN", ""),
            app_token=known.get("APP_API_TOKEN", ""),
            broker_url=known.get("MESH_BROKER_URL"),
        )


def _port(known: Mapping[str, str], name: str, usual: str | None) -> int:
    text = known.get(name) or usual
    if text is None or not text.isdigit():
        raise ConfigError(
            f"{name} has to be a port, not {text!r}",
            remedy="the sidecar sets it: start the worker by `mesh up --host dapr`, or beside a daprd",
            field=name,
        )
    return int(text)
