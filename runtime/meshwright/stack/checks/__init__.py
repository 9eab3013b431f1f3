"""What is looked at before workers start: each finding says which promise is off, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from meshwright.errors import ServiceFailed
from meshwright.settings import Settings
from meshwright.stack.checks.broker import check_broker, check_mosquitto
from meshwright.stack.checks.store import check_redis
from meshwright.stack.ports import LOOPBACK
from meshwright.stack.probes import answers, get
from meshwright.stack.services import Backends, Service

GRPC_ACTORS = (1, 18)
"""The first release of Dapr whose sidecars call actors over gRPC."""
OLDEST = (1, 17)


async def check_backends(settings: Settings, components: Path, backends: Backends) -> Sequence[str]:
    """What is wrong with broker, store and control plane, a line each.

    Raises ServiceFailed where one of them does not answer, or lets nobody in.
    """
    lines = list(await check_redis(backends.redis_host.split(",")[0], backends.redis_password))
    if settings.bus == "mqtt" and settings.broker_url is None:
        lines += check_mosquitto(components / "mosquitto" / "mosquitto.conf")
    elif settings.bus == "mqtt":
        lines += await check_broker(backends.broker_url, client_id=f"mesh-check.{settings.namespace}")
    await _check_control_plane("placement", settings.placement, "no actor can be found")
    await _check_control_plane("scheduler", settings.scheduler, "nothing wakes what waits")
    return lines


async def _check_control_plane(name: str, given: str | None, loss: str) -> None:
    addresses = given.split(",") if given else []
    if addresses and not any([await answers(f"tcp://{each}") for each in addresses]):
        raise ServiceFailed(
            f"Dapr's {name} does not answer on {given}, and without it {loss}",
            remedy=f"start it, or unset MESH_{name.upper()}: mesh up starts one then",
        )


def channel_of(settings: Settings, version: tuple[int, ...]) -> tuple[str, list[str]]:
    """How sidecars of that version call workers, `grpc` or `http`, and what is to be known about that.

    Raises ServiceFailed where the settings want what the sidecar cannot.
    """
    number = ".".join(map(str, version))
    if version >= GRPC_ACTORS:
        return ("http" if settings.dapr_channel == "http" else "grpc"), []
    if settings.dapr_channel == "grpc":
        raise ServiceFailed(
            f"daprd {number} cannot call actors over gRPC (SubscribeActorEventsAlpha1 came with 1.18)",
            remedy='set dapr_channel = "auto", or run daprd 1.18',
        )
    lines = [
        f"daprd {number} cannot call actors over gRPC, so the http channel is used: half the rate, and up to "
        "15 s until the actors of a dead worker answer elsewhere; run daprd 1.18"
    ]
    if version < OLDEST:
        lines.append(f"daprd {number} was never tried with this release; run daprd 1.17 to 1.19")
    return "http", lines


async def check_sidecar(sidecar: Service) -> list[str]:
    """What a sidecar that is ready has not taken of its files, a line each."""
    url = f"http://{LOOPBACK}:{sidecar.environment['DAPR_HTTP_PORT']}/v1.0/metadata"
    try:
        about = json.loads(await get(url, dapr_api_token=sidecar.environment["DAPR_API_TOKEN"]))
    except (OSError, ValueError) as error:
        return [f"{sidecar.name} does not tell what it has loaded: {error}"]
    if any(each.get("name") == "mesh" for each in about.get("resiliencies", [])):
        return []
    return [
        "daprd has not taken components/resiliency.yaml, so a delivery that fails is not tried again by "
        f"itself; the log of {sidecar.name} says why"
    ]
