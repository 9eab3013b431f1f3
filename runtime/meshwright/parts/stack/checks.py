"""Checks before workers start, and why a program ended. A finding is a guarantee that does not hold.

Logins and component files are left to daprd, which checks them: `failure_reason` reads why it ended.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from meshwright.component import Settings
from meshwright.core.errors import ServiceFailed
from meshwright.parts.stack.component_files import volatile_stores
from meshwright.parts.stack.machine import AskRedis, RedisRefused, answers, redis_at
from meshwright.parts.stack.services import Backends
from meshwright.parts.stack.settings import DaprSettings

_GRPC_ACTORS = (1, 18)
"""The first release of Dapr whose sidecars call actors over gRPC."""
_CHECK_SECONDS = 5.0
_REDIS_SETTINGS = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
_MOSQUITTO_SETTINGS = {"persistence": "true", "autosave_interval": "1"}
"""The settings with which a killed Mosquitto loses no more than a second's messages."""
_REWRITE_PAUSE_SECONDS = 0.1
_MAX_TEXT = 300
_IS_ERROR = re.compile(r"level=(error|fatal)|\b(error|fatal)\b", re.IGNORECASE)
_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_COMPONENT = re.compile(
    r"process component (\w+) error: .*initialization error occurred for \S+ \(\S+\): (.*)"
)
_REMEDIES = {
    "connection to broker": "see whether the MQTT broker of MESH_BROKER_URL runs and lets this user in",
    "connecting to redis": "see whether the Redis of MESH_REDIS_HOST runs and takes MESH_REDIS_PASSWORD",
    "couldn't find": "see type and version in its file: this daprd was built without it, and that of "
    "dapr init --slim, for MESH_DAPR_BIN, may have it",
    "actor state store": "one state store has to have actorStateStore set to true",
}


class _Reason(NamedTuple):
    text: str
    remedy: str = ""


async def check_backends(settings: Settings, components: Path, backends: Backends) -> Sequence[str]:
    """Returns the guarantees that store and broker do not hold, a line each.

    Raises ServiceFailed if one of them, or the control plane, does not answer.
    """
    lines = list(await check_redis(backends.redis_host.split(",")[0], backends.redis_password))
    lines += volatile_stores(components, settings[DaprSettings].bus)
    if settings[DaprSettings].bus == "mqtt" and settings[DaprSettings].broker_url is None:
        lines += check_mosquitto(components / "mosquitto" / "mosquitto.conf")
    elif settings[DaprSettings].bus == "mqtt":
        where = urlsplit(backends.broker_url)
        await _check_reachable("the MQTT broker", "BROKER_URL", f"{where.hostname}:{where.port or 1883}")
    await _check_reachable("Dapr's placement", "PLACEMENT", settings[DaprSettings].placement)
    await _check_reachable("Dapr's scheduler", "SCHEDULER", settings[DaprSettings].scheduler)
    return lines


async def _check_reachable(name: str, variable: str, text: str | None) -> None:
    addresses = text.split(",") if text else []
    if addresses and not any([await answers(f"tcp://{address}") for address in addresses]):
        remedy = f"start it, or unset MESH_{variable}: mesh up starts one then"
        raise ServiceFailed(f"{name} does not answer on {text}", remedy=remedy)


def choose_channel(settings: Settings, version: tuple[int, ...]) -> tuple[str, list[str]]:
    """How sidecars of that version call workers, `grpc` or `http`, and what that costs.

    Raises ServiceFailed where the settings ask for more than the sidecar can do.
    """
    number = ".".join(map(str, version))
    if version >= _GRPC_ACTORS:
        return ("http" if settings[DaprSettings].channel == "http" else "grpc"), []
    if settings[DaprSettings].channel == "grpc":
        problem = f"daprd {number} cannot call actors over gRPC (SubscribeActorEventsAlpha1 came with 1.18)"
        raise ServiceFailed(problem, remedy='set dapr.channel = "auto", or run daprd 1.18')
    return "http", [
        f"daprd {number} cannot call actors over gRPC, so the http channel is used: half the rate, and up to "
        "15 s until the actors of a dead worker answer elsewhere; run daprd 1.18"
    ]


def check_mosquitto(configuration: Path) -> Sequence[str]:
    """Returns the settings of our Mosquitto's file that break a guarantee, a line each."""
    lines = [line.split(None, 1) for line in configuration.read_text("utf-8").splitlines()]
    actual = {words[0]: words[1].strip() for words in lines if len(words) == 2 and words[0] != "#"}
    return [
        f"{configuration}: {name} is {actual.get(name, 'not set')}: messages that wait in the broker are "
        f"lost when it is killed, and their tasks wait until they are asked for again; set {name} {value}"
        for name, value in _MOSQUITTO_SETTINGS.items()
        if actual.get(name) != value
    ]


async def check_redis(address: str, password: str) -> Sequence[str]:
    """Returns the settings of a Redis that break a guarantee, a line each. Raises ServiceFailed."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            settings = await _redis_configuration(address, password)
    except RedisRefused as error:
        raise ServiceFailed(
            f"Redis at {address} refuses us: {error}", remedy="set MESH_REDIS_PASSWORD to its password"
        ) from None
    except (OSError, EOFError, ValueError) as error:
        problem = f"Redis at {address} does not answer: {error or type(error).__name__}"
        remedy = "start it, or unset MESH_REDIS_HOST: mesh up starts one then"
        raise ServiceFailed(problem, remedy=remedy) from None
    return [f"Redis at {address} {line}" for line in _redis_findings(settings)]


async def rewrite_redis_log(address: str, password: str) -> None:
    """Have a Redis rewrite its append-only log, without what was overwritten or deleted.

    Returns when that is done, seconds for a gigabyte; at once where Redis keeps no such log. Raises
    ServiceFailed.
    """
    try:
        async with redis_at(address, password) as ask:
            failed = await _rewrite(ask)
    except (OSError, EOFError, ValueError) as error:  # RedisRefused is a ValueError
        failed = str(error) or type(error).__name__
    if failed:
        raise ServiceFailed(
            f"The append-only log of Redis at {address} may still hold what was erased: {failed}",
            remedy="Repeat the command, or have Redis rewrite its log: redis-cli BGREWRITEAOF",
        )


async def _rewrite(ask: AskRedis) -> str:
    """Why it did not work; empty where it did."""
    has_begun = False
    while True:
        [text] = await ask("INFO", "persistence")
        state = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if state.get("aof_enabled") != "1":
            return ""
        if "1" in (state.get("aof_rewrite_in_progress"), state.get("aof_rewrite_scheduled")):
            await asyncio.sleep(_REWRITE_PAUSE_SECONDS)
        elif has_begun:
            status = state.get("aof_last_bgrewrite_status", "")
            return "" if status == "ok" else f"the rewrite ended with {status!r}"
        else:
            await ask("BGREWRITEAOF")
            has_begun = True


async def _redis_configuration(address: str, password: str) -> dict[str, str] | None:
    """The settings that matter; None where Redis does not tell them."""
    async with redis_at(address, password) as ask:
        try:
            replies = [await ask("CONFIG", "GET", name) for name in _REDIS_SETTINGS]
        except RedisRefused:  # renamed, or not for this user: managed services have it so
            return None
    return {pair[0]: pair[1] for pair in replies if len(pair) == 2}


def _redis_findings(settings: Mapping[str, str] | None) -> Iterator[str]:
    if settings is None:
        yield (
            "does not tell its configuration, so whether it keeps what was accepted cannot be verified: "
            "it needs appendonly yes, appendfsync always, maxmemory-policy noeviction"
        )
        return
    if settings.get("appendonly") != "yes":
        yield (
            "keeps no log on disk: accepted tasks are lost when it ends; "
            "set appendonly yes and appendfsync always"
        )
    elif settings.get("appendfsync") != "always":
        yield (
            f"has appendfsync {settings.get('appendfsync')}: a crash of its machine takes back what it had "
            "accepted in the last second, or more; set appendfsync always"
        )
    if settings.get("maxmemory", "0") != "0" and settings.get("maxmemory-policy") != "noeviction":
        yield (
            f"has maxmemory-policy {settings.get('maxmemory-policy')}: out of memory, it throws away tasks; "
            "set maxmemory-policy noeviction"
        )


def failure_reason(tail: Sequence[str]) -> _Reason:
    """Why a program ended, by the line that says most: the last that is an error, else the last."""
    errors = [line for line in tail if _IS_ERROR.search(line)]
    line = (errors or [*tail] or [""])[-1]
    message = _MESSAGE.search(line)
    text = " ".join((message[1].replace("\\n", " ").replace('\\"', '"') if message else line).split())
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words in text), "")
    if refused := _COMPONENT.search(text):
        text = f"component {refused[1]}: {refused[2]}"
    return _Reason(text[:_MAX_TEXT], remedy)
