"""The settings of webhooks: who sends them, which become tasks, and who is notified of outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from meshwright.core.ids import Identifier
from meshwright.core.money import Dollars
from meshwright.core.settings.forms import Network, Secret, SigningTable, Table, http_url

_SourceKind = Literal["github", "gitlab", "alertmanager", "grafana", "generic"]
_Scheme = Literal["hmac", "standard", "token", "bearer", "basic"]
_FORGES = ("github", "gitlab")
MAX_TASKS_OF_ISSUE = 60
"""The `max_per_hour` of an issue or a pull request where a rule names none: people do not write so often."""
_HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$", to_lower=True)]
_FieldPath = Annotated[str, StringConstraints(pattern=r"^[\w-]+(\.[\w-]+)*$", max_length=200)]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class WebhookSource(SigningTable):
    """One of [webhooks.sources.NAME]: who may POST to /webhooks/NAME. Unset fields are as its kind has them.

    `secret` is what the sender knows too; for `basic`, `user:password`.
    """

    kind: _SourceKind = "generic"
    """The service that sends: it defines where the signature, the delivery's id and the event's name are."""
    tenant: Identifier = "default"
    """The tenant that its tasks and events belong to."""
    insecure: bool = False
    """Whether it needs no secret: on loopback only, for trying things out."""
    outside: bool | None = None
    """Whether strangers may have written what it delivers, so that its tasks ask a person before they change
    anything; by default of `github` and `gitlab`, where anybody opens issues."""
    scheme: _Scheme | None = None
    """How a delivery proves who sent it: `hmac` (SHA-256 of the raw body, in hex or base64), `standard`
    (Standard Webhooks), `token` (the secret in a header), `bearer`, `basic`."""
    header: _HeaderName | None = None
    """The header with the signature or the token."""
    prefix: str | None = Field(default=None, max_length=32)
    """The text before the signature, such as `sha256=`."""
    timestamp_header: _HeaderName | None = None
    """For `hmac`: the header with the seconds at which `TIMESTAMP:BODY` was signed, at most 5 minutes ago."""
    id_header: _HeaderName | None = None
    """The header with the id of a delivery, which stays the same when it is sent again."""
    id_fields: tuple[_FieldPath, ...] | None = Field(default=None, max_length=8)
    """Fields that name the event, where no header does; without either it is a hash of the body."""
    event_header: _HeaderName | None = None
    """The header with the name of the event."""
    event_field: _FieldPath | None = None
    """The field with the name of the event."""
    token: Secret | None = None
    """For replies: a token of the API of GitHub or GitLab."""
    api_url: Annotated[str | None, http_url("https://github.example.com/api/v3")] = None
    """That API, where it is not the one of github.com or gitlab.com."""

    @property
    def is_outside(self) -> bool:
        """Whether strangers may have written what it delivers."""
        return self.kind in ("github", "gitlab") if self.outside is None else self.outside

    @model_validator(mode="after")
    def _is_authenticated(self) -> Self:
        if self.secret is None and not self.insecure:
            raise ValueError("needs a secret; insecure = true goes without one, on loopback only")
        if self.kind == "generic" and self.header is None and self.scheme in ("hmac", "token"):
            raise ValueError(
                f"needs a header: the one that has the signature or token of scheme {self.scheme}"
            )
        if self.kind == "generic" and self.scheme is None and not self.insecure:
            raise ValueError("a generic source needs a scheme: hmac, standard, token, bearer or basic")
        return self


class WebhookRule(Table):
    """One of [[webhooks.rules]]: which deliveries of a source become a task, and which one."""

    name: Identifier | None = None
    """Its name among the rules: a delivery that is sent again is the same task while it stays the same.
    By default it is made of source, match, agent and capability."""
    source: Identifier
    """The source that it is for."""
    match: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_as_list)]] = {}
    """Patterns like those of file names by the path of a field (`repository.full_name`), and by `event`; all
    have to fit. A list of patterns fits where one does. A field that is missing fits none."""
    unless: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_as_list)]] = {}
    """Patterns as in `match`: where one fits, the delivery makes no task by this rule."""
    max_per_hour: int | None = Field(default=None, ge=1, le=100_000)
    """Tasks that the rule may make in an hour for one issue or pull request, else in one thread, else in all:
    a brake for agents that answer one another. By default 60 for an issue. Above it a delivery makes none,
    and `webhook.received` says so. Each process counts its own."""
    agent: Identifier | None = None
    """The agent that gets the task."""
    capability: Identifier | None = None
    """Or the capability: the best agent that has it gets the task."""
    text: str | None = Field(default=None, min_length=1, max_length=20_000)
    """The request of the task; `{{issue.title}}` is a field of the delivery, empty where that is missing."""
    payload: Mapping[str, Any] = {}
    """Further fields of its payload, with fields as in `text`. A value that is one field alone, as
    "{{issue.number}}", keeps its JSON type, and is left out where the field is missing."""
    thread: str | None = Field(default=None, min_length=1, max_length=500)
    """The conversation that it joins, with fields as in `text`. By default one of its own."""
    budget_usd: Dollars | None = None
    """Dollars that it may cost."""
    timeout: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds that a step of it may take; default: that of the agent."""
    deadline: float | None = Field(default=None, gt=0, le=604_800)
    """Seconds that it may take; default: that of the agent."""
    reply: Literal["comment", "status", "none"] = "none"
    """How its outcome goes back: a comment on the issue or pull request, or a status of the commit."""

    @model_validator(mode="after")
    def _has_somebody(self) -> Self:
        if self.agent is None and self.capability is None:
            raise ValueError("names neither an agent nor a capability")
        if self.text is None and not self.payload:
            raise ValueError("needs a text, or a payload that its agent takes")
        if self.text is not None and "text" in self.payload:
            raise ValueError("has a text, and another one in its payload")
        return self


class PushTarget(SigningTable):
    """One of [[webhooks.push]]: a URL that gets outcomes as they happen.

    They are signed with `secret`, and with `previous_secret` as well: `whsec_` and 24 to 64 bytes in base64,
    as Standard Webhooks has it.
    """

    url: Annotated[str, http_url("https://example.com/hook")]
    """The URL that gets them, by POST."""
    events: tuple[Literal["*", "task.succeeded", "task.failed", "task.cancelled", "task.timed_out"], ...] = (
        "*",
    )
    """Which outcomes; `*` is all."""
    tenant: Identifier = "default"
    """The tenant whose outcomes are sent."""

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        if self.secret is None:
            raise ValueError("needs a secret: whsec_ and 24 to 64 bytes in base64")
        return self


class WebhooksSettings(Table):
    """[webhooks]: deliveries that become tasks, and outcomes that are sent to URLs."""

    sources: Mapping[Identifier, WebhookSource] = {}
    """Senders of webhooks."""
    rules: tuple[WebhookRule, ...] = ()
    """Deliveries that become tasks."""
    push: tuple[PushTarget, ...] = ()
    """URLs that get outcomes."""
    notify: bool = False
    """A task may name a URL for its outcome."""
    push_networks: tuple[Network, ...] = ()
    """Private networks that outcomes may go to."""
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024, le=25 * 1024 * 1024)
    """Largest delivery."""

    @model_validator(mode="after")
    def _rules_fit_sources(self) -> Self:
        for number, rule in enumerate(self.rules, start=1):
            source = self.sources.get(rule.source)
            if source is None:
                names = ", ".join(self.sources) or "none"
                raise ValueError(
                    f"rule {number} is for source {rule.source!r}, and there is none; known: {names}"
                )
            if rule.reply != "none" and source.kind not in _FORGES:
                raise ValueError(f"rule {number}: only sources of the kinds github and gitlab take replies")
            if rule.reply != "none" and source.token is None:
                raise ValueError(f"rule {number} replies, and source {rule.source!r} has no token for that")
        return self
