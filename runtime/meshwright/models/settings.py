"""[models]: what answers the agents, and the cache of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from meshwright.settings.forms import Secret, Table, http_url


class ModelsSettings(Table):
    """[models]: what answers the agents, and the cache of its answers."""

    variables: ClassVar = {
        "LITELLM_BASE_URL": "base_url",
        "LITELLM_API_KEY": "api_key",
        "MESH_MODEL": "adapter",
    }
    adapter: str = "auto"
    """The model that answers the agents. `auto`: `http` if `base_url` is set, `router` if there are keys of
    providers, else `offline`, the built-in model that needs neither key nor network. Any other is one model
    for every call: `ollama/llama3.1`, `anthropic/claude-sonnet-4-6`. Packages may bring others."""
    base_url: Annotated[str | None, http_url("http://127.0.0.1:4000")] = None
    """Address of a LiteLLM proxy or another server with the OpenAI API."""
    api_key: Secret | None = None
    """Key for that server. Better given in the environment than written in a file."""
    name: str | None = Field(default=None, min_length=1, max_length=256)
    """The one model of that server that answers every call, whatever group a prompt names; tags and other
    fields that OpenAI does not know are then left out. For Ollama, vLLM and others that are no proxy."""
    config: Path = Path("litellm_config.yaml")
    """The deployments of "router", in LiteLLM's own format."""
    max_request_bytes: int = Field(default=16 * 1024 * 1024, ge=1_024, le=256 * 1024 * 1024)
    """How large a body of /v1 may be, with its pictures and files; `max_payload_bytes` where that is more."""
    stream: bool = True
    """Whether answers reach the task's event stream while the model still writes them."""
    park: bool = True
    """Whether a run whose provider is away waits without a slot, and goes on at the same step; else it
    fails."""
    park_seconds: float = Field(default=5.0, gt=0)
    """Its first pause. Each one after it is twice as long."""
    max_park_seconds: float = Field(default=120.0, gt=0)
    """Its longest pause. A provider may ask for a longer one."""
    cache: Literal["off", "memory", "disk", "redis"] = "off"
    """The place of the cache of answers, so that the same call again costs nothing. Tenants share none."""
    cache_ttl_seconds: float = Field(default=600.0, gt=0)
    """How long an answer is good for."""
    cache_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """The size of a cache in memory or on disk; the answers used last stay."""
    cache_redis_url: Secret | None = None
    """The Redis of `cache = "redis"`, like redis://:password@127.0.0.1:6379/0."""
