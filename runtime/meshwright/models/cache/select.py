"""Which cache the settings ask for, and what its answers are answers of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from meshwright.clock import Clock
from meshwright.errors import ConfigError
from meshwright.models.cache.cached import Cached
from meshwright.models.cache.disk import DiskStore
from meshwright.models.cache.memory import MemoryStore
from meshwright.models.cache.port import Store
from meshwright.models.cache.redis import RedisStore
from meshwright.models.config import names_in, read_text
from meshwright.models.port import Model
from meshwright.models.select import ModelSettings, Secret


class CacheSettings(ModelSettings, Protocol):
    """The settings that choose a cache."""

    @property
    def cache(self) -> str:
        """`off`, `memory`, `disk` or `redis`."""
        ...

    @property
    def cache_ttl_seconds(self) -> float:
        """How long an answer is good for."""
        ...

    @property
    def cache_max_bytes(self) -> int:
        """What a cache in memory or on disk may hold."""
        ...

    @property
    def cache_redis_url(self) -> Secret | None:
        """The Redis of `cache = "redis"`."""
        ...


def cache_of(settings: CacheSettings, folder: Path, clock: Clock) -> Store | None:
    """The store that the settings ask for, None where they ask for none. `folder` is the mesh's data folder.

    Raises ConfigError for a Redis that is not named, or without its client.
    """
    if settings.cache == "memory":
        return MemoryStore(clock, settings.cache_max_bytes)
    if settings.cache == "disk":
        return DiskStore(folder, clock, settings.cache_max_bytes)
    if settings.cache == "redis":
        return _redis(settings.cache_redis_url)
    return None


def cached(
    model: Model,
    settings: CacheSettings,
    folder: Path,
    config_path: Path,
    clock: Clock,
    *,
    kind: str,
    environment: Mapping[str, str] | None = None,
) -> Model:
    """The model with the cache that the settings ask for; the model itself where they ask for none.

    `kind` is that of the adapter below it.
    `config_path` is the litellm_config.yaml, which need not exist. Raises ConfigError as `cache_of` does.
    """
    store = cache_of(settings, folder, clock)
    if store is None:
        return model
    identity = identity_of(kind, settings, config_path, os.environ if environment is None else environment)
    return Cached(model, store, ttl_seconds=settings.cache_ttl_seconds, clock=clock, identity=identity)


def identity_of(kind: str, settings: ModelSettings, config_path: Path, environment: Mapping[str, str]) -> str:
    """What answers, as a hash: the adapter, its server and key, the configuration and what that reads.

    Keys count, since another key may open other models.
    """
    config = read_text(config_path) if config_path.exists() else ""
    key = settings.litellm_api_key
    parts = [
        kind,
        settings.litellm_base_url or "",
        key.get_secret_value() if key else "",
        config,
        *([settings.model_name] if settings.model_name else ()),
        *(f"{name}={environment.get(name, '')}" for name in names_in(config)),
    ]
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def _redis(url: Secret | None) -> Store:
    if url is None:
        raise ConfigError(
            'cache = "redis" needs the address of a Redis',
            remedy="set MESH_MODELS__CACHE_REDIS_URL, like redis://:password@127.0.0.1:6379/0",
            field="cache_redis_url",
        )
    return RedisStore(url.get_secret_value())
