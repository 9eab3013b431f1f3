"""The settings of a mesh: each a typed field, with its default, its bounds and what it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshwright.money import Budget, Price

PREFIX = "MESH_"
MQTT_URL = r"mqtts?://(\[[0-9A-Fa-f:.]+\]|[^\s/:@?#\[\]]+)(:\d+)?/?"
BUS_TOPICS = "bus/"  # what daprd puts before the topics of the bus
RECORD_PAYLOADS = 4  # a task's record holds its payload, its result, and what its attempts came to
EXAMPLES = {
    "litellm_base_url": "http://127.0.0.1:4000",
    "otlp_endpoint": "http://127.0.0.1:4318/v1/traces",
}

ADMIN_PREFIX = "mesh-admin-"
"""How an admin token begins that `mesh up` has made."""


class Settings(BaseSettings):
    """Everything that can be set about a mesh. Made by `load_settings`; immutable; secrets print as stars."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path(".mesh")
    """Folder of the mesh's database; made where it is missing."""
    host: Literal["embedded", "memory", "dapr"] = "embedded"
    """What runs the actors: `embedded` keeps everything in one SQLite file, `memory` nothing; `dapr` spreads
    them over processes and machines, on a broker and a store."""
    durability: Literal["full", "normal"] = "full"
    """`full`: what was accepted survives a power cut; `normal`: kill -9, and commits are faster."""

    accept_loss: bool = False
    """Whether to start on a store that lacks what was committed to it: for one start, after a look at what is
    lost. It is recorded as an event."""

    listen_host: str = "127.0.0.1"
    """Address that the HTTP API listens on. Off loopback keys must be required, or `insecure` be set."""
    listen_port: int = Field(default=8000, ge=0, le=65_535)
    """Port of the HTTP API; 0 takes any free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names under which clients may call the API, such as that of a proxy in front of it. Off loopback
    IP addresses and this machine's own name are allowed too."""
    require_keys: bool | None = None
    """Whether each request needs a virtual key or the admin token. Unset: as soon as a key was created.
    `true` does not depend on stored data; `false` never."""
    insecure: bool = False
    """Whether the API may listen off loopback although it requires no keys: everybody may use it then."""
    admin_token: SecretStr | None = Field(default=None, min_length=32)
    """Secret of the mesh's administrator. Where unset `mesh up` makes one, in `admin.token` of data_dir."""
    max_payload_bytes: int = Field(default=262_144, ge=1_024, le=64 * 1024 * 1024)
    """Largest request body that is read, in bytes."""
    max_payload_depth: int = Field(default=32, ge=2, le=100)
    """How deep the JSON of a request may be nested."""
    max_record_bytes: int = Field(default=4 * 1024 * 1024, ge=256 * 1024, le=256 * 1024 * 1024)
    """Largest record that is stored, in bytes of JSON: an actor's state, a message, an event, a step. The
    outcome of a task may have half of it. At least four times `max_payload_bytes`."""

    prompt_dir: Path = Path("prompts")
    """Folder of the `.prompt` files."""
    prompt_reload_seconds: float = Field(default=5.0, gt=0)
    """How often the prompt files are checked for changes."""
    actors_dir: Path = Path("actors")
    """Folder of the agents: one Python file each."""
    workspace: Path = Path(".")
    """Folder that the agents' file and git tools may read; nothing outside of it."""
    allow_private_addresses: bool = False
    """Whether agents may fetch pages from private and loopback addresses."""

    model: Literal["auto", "offline", "http", "router"] = "auto"
    """What answers the agents. `auto`: `http` where `litellm_base_url` is set, `router` where provider keys
    are, else `offline`, the built-in model that needs neither key nor network."""
    litellm_base_url: str | None = None
    """Address of a LiteLLM proxy or another server with the OpenAI API."""
    litellm_api_key: SecretStr | None = None
    """Key for that server. Better given in the environment than written in a file."""
    model_name: str | None = Field(default=None, min_length=1, max_length=256)
    """The one model of that server that answers every call, whatever group a prompt names; tags and other
    fields that OpenAI does not know are then left out. For Ollama, vLLM and others that are no proxy."""
    litellm_config: Path = Path("litellm_config.yaml")
    """Configuration of the in-process router, in LiteLLM's own format."""

    stream: bool = True
    """Whether answers reach the task's event stream while the model still writes them."""
    cache: Literal["off", "memory", "disk", "redis"] = "off"
    """Where answers of models are kept, so that the same call again costs nothing. Tenants share none."""
    cache_ttl_seconds: float = Field(default=600.0, gt=0)
    """How long an answer is good for."""
    cache_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """What a cache in memory or on disk may hold; what was used last stays."""
    cache_redis_url: SecretStr | None = None
    """The Redis of `cache = "redis"`, like redis://:password@127.0.0.1:6379/0."""

    budgets: tuple[Budget, ...] = ()
    """How much may be spent: tables with name, scope, of, limit_usd, window, hard and cheaper_tag."""
    default_price: Price | None = None
    """Dollars per million tokens of a model whose price nobody knows, like { input = 3, output = 15 }. Where
    unset a hard budget refuses its calls."""

    max_concurrency: int = Field(default=8, ge=1, le=1_000)
    """Tasks that one agent works on at a time, where it declares no number itself."""
    max_steps: int = Field(default=12, ge=1, le=1_000)
    """Model calls of one attempt at a task; after them the model is asked once more, without tools."""
    max_repeats: int = Field(default=5, ge=2, le=1_000)
    """The same tool call with the same result so often in a row ends the tools of a run: the model is asked
    for its answer."""
    tool_timeout_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a call of a tool may take, where the tool declares no `timeout` itself."""
    max_open_tasks: int = Field(default=10_000, ge=1, le=10_000_000)
    """Tasks that may be open at a time; more from outside are refused with 429. What agents delegate counts
    and is never refused."""
    max_thread_tasks: int = Field(default=1_000, ge=1, le=100_000)
    """Open tasks that one thread may have; more are refused."""
    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts at a task, each by another agent; where there is no other, the first one's failure is the end.
    Only after ReplayMismatch may the same agent try again."""
    max_chain: int = Field(default=5, ge=1, le=50)
    """How deep agents may delegate to one another."""
    context_max_tokens: int = Field(default=8_000, ge=200)
    """Tokens that the context of one run may take."""
    memory_max_tokens: int = Field(default=1_000, ge=0)
    """Tokens of that which recalled memories may take; 0 recalls none."""

    trace: bool = True
    """Whether spans are recorded and kept in the event log."""
    trace_content: bool = False
    """Whether spans hold the text of messages. Off: only names, counts and times."""
    otlp_endpoint: str | None = None
    """Full URL of an OpenTelemetry collector that gets the spans too, by OTLP/HTTP: see extra `otlp`."""

    namespace: str = Field(default="default", max_length=63)
    """The mesh's name among those that share a broker and a store. This and the next: on Dapr alone."""
    dapr_channel: Literal["auto", "grpc", "http"] = "auto"
    """How daprd calls the workers. `auto`: `grpc` where daprd is 1.18 or newer, else `http`."""
    dapr_bin: Path | None = None
    """Folder of daprd, placement and scheduler; where unset they are looked for."""
    bus: Literal["mqtt", "redis"] = "mqtt"
    """What carries messages between workers: an MQTT broker, or streams of the Redis that is the store."""
    broker_url: SecretStr | None = None
    """The MQTT broker, with user and password. Where unset `mesh up` runs a Mosquitto."""
    redis_host: str | None = None
    """The store, as host:port. Where unset `mesh up` runs a Redis."""
    redis_password: SecretStr | None = None
    """Its password. Better given in the environment than written in a file."""
    placement: str | None = None
    """Dapr's placement, as host:port, several by comma. Where unset `mesh up` runs one."""
    scheduler: str | None = None
    """Dapr's scheduler, as host:port, several by comma. Where unset `mesh up` runs one."""

    mqtt_url: str | None = None
    """The broker at which MQTT clients find the mesh, like mqtt://127.0.0.1:1883, or mqtts:// for TLS. Where
    unset it is not on MQTT, but for `dapr`, which has it on its own broker."""
    mqtt_username: str | None = None
    """The mesh's user at that broker."""
    mqtt_password: SecretStr | None = None
    """Its password. Better given in the environment than written in a file."""
    mqtt_ca_file: Path | None = None
    """PEM file of the authority that signed the broker's certificate; where unset those of the system."""
    mqtt_prefix: str = Field(default="mesh", max_length=128)
    """First part of all the topics of a mesh: two meshes on one broker need two."""
    mqtt_reply_prefix: str = Field(default="replies", max_length=128)
    """First part of the topics at which MQTT clients are answered: below it each client has its own, named
    after it. The mesh answers nowhere else."""

    loop_held_seconds: float = Field(default=5.0, ge=0.1)
    """How long code may hold the event loop of a process, until a warning says where."""
    loop_restart_seconds: float = Field(default=30.0, ge=0)
    """How long until the process is started again; 0 never does, as for a debugger."""

    heartbeat_seconds: float = Field(default=30.0, gt=0)
    """How often each agent says that it is there."""
    degraded_after_seconds: float = Field(default=60.0, gt=0)
    """Silence after which an agent counts as degraded."""
    offline_after_seconds: float = Field(default=120.0, gt=0)
    """Silence after which an agent is offline and gets no tasks."""

    @field_validator("litellm_base_url", "otlp_endpoint")
    @classmethod
    def _is_a_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and not re.match(r"https?://[^\s/]", url):
            raise ValueError(
                f"expected a URL with http:// or https://, like {EXAMPLES[str(info.field_name)]}"
            )
        return url

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
                raise ValueError("expected host names without scheme and port, like mesh.example.com")
        return tuple(name.lower() for name in names)

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"mqtts?://[^\s/]", url.get_secret_value()):
            raise ValueError("expected a URL like mqtt://user:password@127.0.0.1:1883, or with mqtts://")
        return url

    @field_validator("mqtt_url")
    @classmethod
    def _is_an_mqtt_address(cls, url: str | None) -> str | None:
        if url is not None and not (re.fullmatch(MQTT_URL, url) and urlsplit(url).port != 0):
            raise ValueError("expected a URL like mqtt://127.0.0.1:1883; users are for mqtt_username")
        return url

    @field_validator("mqtt_prefix", "mqtt_reply_prefix")
    @classmethod
    def _is_a_topic(cls, prefix: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", prefix):
            raise ValueError("expected letters, digits, _ and - in parts joined by /, like home/mesh")
        return prefix

    @field_validator("redis_host", "placement", "scheduler")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"[^\s:/,]+:\d+(,[^\s:/,]+:\d+)*", address):
            raise ValueError("expected host:port, like 127.0.0.1:6379")
        return address

    @field_validator("namespace")
    @classmethod
    def _is_a_label(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
            raise ValueError("expected lower-case letters, digits and hyphens, like team-a")
        return name

    @model_validator(mode="after")
    def _replies_are_apart(self) -> Self:
        topics, replies = f"{self.mqtt_prefix}/", f"{self.mqtt_reply_prefix}/"
        if topics.startswith(replies) or replies.startswith((topics, BUS_TOPICS)):
            raise ValueError(
                "mqtt_reply_prefix must lie outside of mqtt_prefix and of bus, where the mesh listens itself"
            )
        return self

    @model_validator(mode="after")
    def _records_hold_payloads(self) -> Self:
        if self.max_record_bytes < RECORD_PAYLOADS * self.max_payload_bytes:
            raise ValueError(
                f"max_record_bytes must be at least {RECORD_PAYLOADS} times max_payload_bytes: "
                f"{RECORD_PAYLOADS * self.max_payload_bytes}"
            )
        return self

    @model_validator(mode="after")
    def _silence_grows(self) -> Self:
        if not self.heartbeat_seconds < self.degraded_after_seconds < self.offline_after_seconds:
            raise ValueError(
                "heartbeat_seconds, degraded_after_seconds and offline_after_seconds must grow in this order"
            )
        return self
