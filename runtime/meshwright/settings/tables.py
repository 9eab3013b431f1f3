"""The settings of a mesh: one table for each component, each setting with its default and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meshwright.core.limits import DEADLINE_SECONDS, MAX_REPEATS, MAX_STEPS, TIMEOUT_SECONDS, Limits
from meshwright.core.messages import Identifier
from meshwright.core.money import Budget, Dollars, Price
from meshwright.core.schedule import ScheduleSpec
from meshwright.settings.access import (
    AuditSettings,
    HttpSettings,
    KeysSettings,
    OidcSettings,
    SecretsSettings,
)
from meshwright.settings.channels import ChannelName, ChannelSettings
from meshwright.settings.forms import Address, BrokerUrl, Label, Table, http_url
from meshwright.settings.mqtt import MqttSettings
from meshwright.settings.places import in_tables
from meshwright.settings.publishers import Publishers
from meshwright.settings.references import Secret
from meshwright.settings.tenants import TenantsSettings
from meshwright.settings.tools import ApprovalsSettings, PeopleSettings, ToolsSettings
from meshwright.settings.webhooks import WebhooksSettings

ADMIN_PREFIX = "mesh-admin-"
"""How an admin token begins that `mesh up` has made."""
_RECORD_PAYLOADS = 4  # a task's record holds its payload, its result, and what its attempts came to


class _PromptsSettings(Table):
    """[prompts]: the prompt files."""

    dir: Path = Path("prompts")
    """Folder of the `.prompt` files."""
    reload_seconds: float = Field(default=5.0, gt=0)
    """How often the prompt files are checked for changes."""


class _AgentsSettings(Table):
    """[agents]: where agents are found, and the limits of their runs."""

    dir: Path = Path("actors")
    """Folder of the agents: a Python file or package each."""
    max_concurrency: int = Field(default=8, ge=1, le=1_000)
    """Tasks that one agent works on at a time, where it declares no number itself."""
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=100_000)
    """Replies of a model that call tools, in one run. At this limit and the next four the model is asked once
    for its answer, without tools. Agents (`limits`) and tasks may have their own."""
    max_repeats: int = Field(default=MAX_REPEATS, ge=2, le=100_000)
    """How often in a row the same calls of tools may have the same results."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens that a run may read and write in all its calls of models; unset: no limit."""
    max_usd: Dollars | None = None
    """Dollars that the calls of a run may cost; unset: no limit but budgets."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds that models and tools may take in a run; unset: no limit but the task's deadline."""
    timeout_seconds: float = Field(default=TIMEOUT_SECONDS, gt=0, le=86_400)
    """Seconds that a step of a run may take: a call of a model, or the agent's own code until the next step.
    Agents (`timeout`) and tasks may have their own; tools have `tools.timeout_seconds`."""
    deadline_seconds: float = Field(default=DEADLINE_SECONDS, gt=0, le=604_800)
    """Seconds that a task may take, without what it waits for people and money. Agents (`deadline`) and tasks
    may have their own."""
    max_chain: int = Field(default=5, ge=1, le=50)
    """How deep agents may delegate to one another."""

    @property
    def limits(self) -> Limits:
        """The limits of runs whose agents and tasks have none of their own."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})


class _ScheduleJob(ScheduleSpec):
    """One of [[schedules.jobs]]: a schedule with its id and its tenant."""

    id: Identifier
    tenant_id: Identifier = "default"


class _SchedulesSettings(Table):
    """[schedules]: tasks that are submitted by themselves, at due times."""

    max_per_tenant: int = Field(default=1_000, ge=1, le=100_000)
    """Schedules that a tenant may have."""
    jobs: tuple[_ScheduleJob, ...] = ()
    """Schedules that the file declares: tables with id, tenant_id and what `PUT /schedules/{id}` takes. They
    are made, changed and deleted at the start, and by nothing else."""


class _ModelsSettings(Table):
    """[models]: what answers the agents, and the cache of its answers."""

    adapter: str = "auto"
    """What answers the agents. `auto`: `http` where `base_url` is set, `router` where provider keys are, else
    `offline`, the built-in model that needs neither key nor network. Any other is one model for every call,
    by its name: `ollama/llama3.1`, `anthropic/claude-sonnet-4-6`. Packages may bring others."""
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
    """Where answers of models are kept, so that the same call again costs nothing. Tenants share none."""
    cache_ttl_seconds: float = Field(default=600.0, gt=0)
    """How long an answer is good for."""
    cache_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """What a cache in memory or on disk may hold; what was used last stays."""
    cache_redis_url: Secret | None = None
    """The Redis of `cache = "redis"`, like redis://:password@127.0.0.1:6379/0."""


class _AgentConfigSettings(Table):
    """[agent_config]: which model each agent calls, as callers configure it while the mesh runs."""

    ttl_seconds: float = Field(default=300.0, ge=1)
    """How long a worker goes by the configurations that it has read, where no event says that one changed."""
    max_agents: int = Field(default=1_000, ge=1, le=100_000)
    """Configurations that one tenant may have."""
    max_subscribers: int = Field(default=200, ge=0, le=10_000)
    """WebSocket clients that one front serves at a time."""


class _LedgerSettings(Table):
    """[ledger]: how much may be spent."""

    budgets: tuple[Budget, ...] = ()
    """How much may be spent: tables with name, scope, of, limit_usd, window, hard, on_empty, cheaper_tag."""
    default_price: Price | None = None
    """Dollars per million tokens of a model whose price is unknown, like { input = 3, output = 15 }. Where
    unset a hard budget refuses its calls."""


class _OrchestrationSettings(Table):
    """[orchestration]: how many tasks may be open, and how often one is attempted."""

    max_open_tasks: int = Field(default=10_000, ge=1, le=10_000_000)
    """Tasks that may be open at a time; more from outside are refused with 429. What agents delegate counts
    and is never refused."""
    max_thread_tasks: int = Field(default=1_000, ge=1, le=100_000)
    """Open tasks that one thread may have; more are refused."""
    max_attempts: int = Field(default=3, ge=1, le=10)
    """Attempts at a task, each by another agent; where there is no other, the first one's failure is the end.
    Only after ReplayMismatch may the same agent try again."""


class _ContextSettings(Table):
    """[context]: the context of runs."""

    max_tokens: int = Field(default=8_000, ge=200)
    """Tokens that the context of one run may take."""
    memory_max_tokens: int = Field(default=1_000, ge=0)
    """Tokens of that which recalled memories may take; 0 recalls none."""
    window_tokens: int | None = Field(default=None, ge=1_000)
    """Tokens that a model reads in one call, where neither its price list nor `max_input_tokens` of its
    deployment says so. Unset: as many as it takes until it refuses."""


class _TracingSettings(Table):
    """[tracing]: spans."""

    enabled: bool = True
    """Whether spans are recorded and kept in the event log."""
    content: bool = False
    """Whether spans hold the text of messages. Off: only names, counts and times."""
    turns: bool = False
    """Whether each turn of an actor has its own span, in addition to those of runs, models and tools."""
    otlp_endpoint: Annotated[str | None, http_url("http://127.0.0.1:4318/v1/traces")] = None
    """Full URL of an OpenTelemetry collector that gets the spans too, by OTLP/HTTP: see extra `otlp`."""


class _DaprSettings(Table):
    """[dapr]: what a mesh on Dapr rests on."""

    namespace: Label = "default"
    """The mesh's name among those that share a broker and a store."""
    channel: Literal["auto", "grpc", "http"] = "auto"
    """How daprd calls the workers. `auto`: `grpc` where daprd is 1.18 or newer, else `http`."""
    bin: Path | None = None
    """Folder of daprd, placement and scheduler; where unset they are looked for."""
    bus: Literal["mqtt", "redis"] = "mqtt"
    """What carries messages between workers: an MQTT broker, or streams of the Redis that is the store."""
    broker_url: BrokerUrl = None
    """The MQTT broker, with user and password. Where unset `mesh up` runs a Mosquitto."""
    redis_host: Address = None
    """The store, as host:port. Where unset `mesh up` runs a Redis."""
    redis_password: Secret | None = None
    """Its password. Better given in the environment than written in a file."""
    placement: Address = None
    """Dapr's placement, as host:port, several by comma. Where unset `mesh up` runs one."""
    scheduler: Address = None
    """Dapr's scheduler, as host:port, several by comma. Where unset `mesh up` runs one."""
    publishers: Publishers = Field(default_factory=dict)
    """Programs that publish tasks as CloudEvents, by name, each on a topic of its own. Off without any."""


class _WatchdogSettings(Table):
    """[watchdog]: what happens when code holds the event loop."""

    held_seconds: float = Field(default=5.0, ge=0.1)
    """How long code may hold the event loop of a process, until a warning says where."""
    restart_seconds: float = Field(default=30.0, ge=0)
    """How long until the process is started again; 0 never does, as for a debugger."""


class _PresenceSettings(Table):
    """[presence]: when an agent counts as gone."""

    heartbeat_seconds: float = Field(default=30.0, gt=0)
    """How often each agent says that it is there."""
    degraded_after_seconds: float = Field(default=60.0, gt=0)
    """Silence after which an agent counts as degraded."""
    offline_after_seconds: float = Field(default=120.0, gt=0)
    """Silence after which an agent is offline and gets no tasks."""

    @model_validator(mode="after")
    def _silence_grows(self) -> Self:
        if not self.heartbeat_seconds < self.degraded_after_seconds < self.offline_after_seconds:
            raise ValueError(
                "heartbeat_seconds, degraded_after_seconds and offline_after_seconds must grow in this order"
            )
        return self


class Settings(BaseModel):
    """Everything that can be set about a mesh. Made by `load_settings`; immutable; secrets print as stars.

    Names from before there were tables are understood too: `Settings(listen_port=0)`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Path(".mesh")
    """Folder of the mesh's database; made where it is missing."""
    store: str = "sqlite"
    """Where actors and events are stored: `sqlite` in one file, `memory` nowhere; `dapr` spreads them over
    processes and machines, on a broker and a store. An installed package may bring others."""
    database: Secret | None = None
    """The address of a PostgreSQL database that workers and fronts of the mesh share, like
    `postgresql://user:password@host:5432/name`. It is the store, unless that is `dapr`: then it has the event
    log, the lists and the memories."""
    durability: Literal["full", "normal"] = "full"
    """`full`: what was accepted survives a power cut; `normal`: kill -9, and commits are faster."""
    writer: Literal["auto", "thread", "process"] = "auto"
    """What writes to SQLite in a mesh that serves: a `process` of its own (some 50 MB), which commits
    beside the event loop, or a `thread`. `auto` is a process where there are two cores."""
    accept_loss: bool = False
    """Whether to start on a store that lacks what was committed to it: for one start, after a look at what is
    lost. It is recorded as an event."""
    keep_events_days: float | None = Field(default=None, gt=0)
    """How many days events are kept, counted from when they were written; without it, for ever."""
    keep_contents_days: float | None = Field(default=None, gt=0)
    """How many days after the end of a task what was said at its steps is kept: prompts, replies, arguments
    and results of tools, files. Without it, as long as its events."""
    max_payload_bytes: int = Field(default=262_144, ge=1_024, le=64 * 1024 * 1024)
    """Largest request body that is read, in bytes."""
    max_payload_depth: int = Field(default=32, ge=2, le=100)
    """How deep the JSON of a request may be nested."""
    max_record_bytes: int = Field(default=4 * 1024 * 1024, ge=256 * 1024, le=256 * 1024 * 1024)
    """Largest record that is stored, in bytes of JSON: an actor's state, a message, an event, a step. The
    outcome of a task may have half of it. At least four times `max_payload_bytes`."""

    http: HttpSettings = HttpSettings()
    keys: KeysSettings = KeysSettings()
    oidc: OidcSettings = OidcSettings()
    secrets: SecretsSettings = SecretsSettings()
    audit: AuditSettings = AuditSettings()
    prompts: _PromptsSettings = _PromptsSettings()
    agents: _AgentsSettings = _AgentsSettings()
    tools: ToolsSettings = ToolsSettings()
    people: PeopleSettings = PeopleSettings()
    approvals: ApprovalsSettings = ApprovalsSettings()
    schedules: _SchedulesSettings = _SchedulesSettings()
    models: _ModelsSettings = _ModelsSettings()
    agent_config: _AgentConfigSettings = _AgentConfigSettings()
    ledger: _LedgerSettings = _LedgerSettings()
    orchestration: _OrchestrationSettings = _OrchestrationSettings()
    tenants: TenantsSettings = TenantsSettings()
    context: _ContextSettings = _ContextSettings()
    tracing: _TracingSettings = _TracingSettings()
    dapr: _DaprSettings = _DaprSettings()
    mqtt: MqttSettings = MqttSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    channels: Mapping[ChannelName, ChannelSettings] = {}
    watchdog: _WatchdogSettings = _WatchdogSettings()
    presence: _PresenceSettings = _PresenceSettings()

    def __init__(self, **values: Any) -> None:
        super().__init__(**in_tables(values))

    def having(self, **values: Any) -> Self:
        """A copy with some values: of settings without a table, or whole fields of one, as `http={...}`."""
        tables = {
            name: getattr(self, name).model_copy(update=value) if isinstance(value, dict) else value
            for name, value in in_tables(values).items()
        }
        return self.model_copy(update=tables)

    @model_validator(mode="after")
    def _users_of_the_broker_are_different(self) -> Self:
        if both := self.dapr.publishers.keys() & {client.user for client in self.mqtt.clients}:
            raise ValueError(f"{min(both)} is one of dapr.publishers and of mqtt.clients: give it two names")
        return self

    @model_validator(mode="after")
    def _records_hold_payloads(self) -> Self:
        if self.max_record_bytes < _RECORD_PAYLOADS * self.max_payload_bytes:
            raise ValueError(
                f"max_record_bytes must be at least {_RECORD_PAYLOADS} times max_payload_bytes: "
                f"{_RECORD_PAYLOADS * self.max_payload_bytes}"
            )
        return self
