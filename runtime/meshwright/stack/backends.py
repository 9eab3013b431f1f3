"""Broker, store, placement and scheduler: those that the settings name are used, the others are started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from meshwright.settings import Settings
from meshwright.stack.ports import Ports
from meshwright.stack.programs import Programs
from meshwright.stack.recipes import EdgeRights, mosquitto, placement, redis, scheduler
from meshwright.stack.services import Backends, Service, new_secret

PROGRAMS = {
    "broker_url": "mosquitto",
    "redis_host": "redis-server",
    "placement": "placement",
    "scheduler": "scheduler",
}
"""What is run for each service that is not given."""


def given_backends(settings: Settings) -> Backends:
    """The services that run already, by the settings; the others are empty."""
    return Backends(
        broker_url=_secret(settings.broker_url) if settings.bus == "mqtt" else "",
        redis_host=settings.redis_host or "",
        redis_password=_secret(settings.redis_password),
        placement=settings.placement or "",
        scheduler=settings.scheduler or "",
    )


def _secret(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def missing_backends(
    settings: Settings,
    programs: Programs,
    ports: Ports,
    components: Path,
    *,
    redis_password: str,
    edge_password: str,
) -> Mapping[str, Callable[[], Service]]:
    """How to make each service that is not given, by its field of Backends.

    Raises ServiceFailed where the program of one of them is missing.
    """
    folder = settings.data_dir.absolute()
    edge = EdgeRights(edge_password, settings.mqtt_prefix, settings.mqtt_reply_prefix)
    recipes: dict[str, Callable[[Path], Service]] = {
        "broker_url": lambda program: mosquitto(
            program, ports, components, folder / "mosquitto", new_secret(), edge
        ),
        "redis_host": lambda program: redis(program, ports, components, folder / "redis", redis_password),
        "placement": lambda program: placement(program, ports),
        "scheduler": lambda program: scheduler(program, ports, folder / "scheduler"),
    }
    known = given_backends(settings)
    wanted = [field for field in recipes if not getattr(known, field)]
    if settings.bus != "mqtt":
        wanted.remove("broker_url")
    return {field: partial(recipes[field], programs.find(PROGRAMS[field])) for field in wanted}
