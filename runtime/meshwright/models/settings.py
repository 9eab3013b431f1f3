"""[models]: what answers the agents, and the cache of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from meshwright.core.settings.forms import Secret, Table, http_url


class ModelsSettings(Table):
    """[models]: what answers the agents, and the cache of its answers."""

    variables: ClassVar = {
        "LITELLM_BASE_URL": "base_url",
        "LITELLM_API_KEY": "api_key",
        "MESH_MODEL": "adapter",
    }
    adapter: str = "auto"
    """`auto`: `http` with `base_url`, `router` with keys of providers, else `offline`. Or one model for every
    call: `ollama/llama3.1`."""
    base_url: Annotated[str | None, http_url("http://127.0.0.1:4000")] = None
    """A LiteLLM proxy, or another server with OpenAI's API."""
    api_key: Secret | None = None
    """Its key."""
    headers: dict[str, Secret] = Field(default=dict[str, Secret]())
    """Headers of each call of it, as a gateway wants them: `{ "x-portkey-api-key" = "env:PORTKEY_KEY" }`."""
    name: str | None = Field(default=None, min_length=1, max_length=256)
    """The one model of a server that is no LiteLLM proxy."""
    config: Path = Path("litellm_config.yaml")
    """The deployments of `router`, in LiteLLM's format."""
    aliases: dict[str, str] = Field(default=dict[str, str]())
    """Groups by patterns of the names that clients of /v1 ask for. A name that is a group needs none, nor do
    names of Claude on Anthropic's API."""
    max_request_bytes: int = Field(default=16 * 1024 * 1024, ge=1_024, le=256 * 1024 * 1024)
    """Largest body of /v1."""
    stream: bool = True
    """Stream answers to the task's events."""
    park: bool = True
    """A run whose provider is away waits; else it fails."""
    park_seconds: float = Field(default=5.0, gt=0)
    """Its first pause; each next one is twice as long."""
    max_park_seconds: float = Field(default=120.0, gt=0)
    """Its longest pause."""
    read_on_seconds: float = Field(default=10.0, ge=0, le=600)
    """Seconds that a call of a framework is read on after its caller gave it up, so that its cost is known; 0
    closes it at once."""
    cache: Literal["off", "memory", "disk", "redis"] = "off"
    """`memory`, `disk` or `redis`: the same call again costs nothing. Tenants share none."""
    cache_ttl_seconds: float = Field(default=600.0, gt=0)
    """Seconds that an answer is good for."""
    cache_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Bytes of a cache in memory or on disk."""
    cache_redis_url: Secret | None = None
    """The Redis, as redis://:password@127.0.0.1:6379/0."""
