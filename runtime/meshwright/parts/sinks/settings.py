"""The settings of sinks: services for experiments, evaluations and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from meshwright.component import Secret, Table
from meshwright.core.settings.forms import Network, has_form, http_url
from meshwright.kit import Identifier

_SinkName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


def _without_user(url: str) -> str:
    if "@" in urlsplit(url).netloc:
        raise ValueError("the URL holds credentials: set key")
    return url


class SinkSettings(Table):
    """One of [sinks.NAME]: a service that gets how tasks ended and were scored, or registered prompts."""

    kind: Literal["mlflow", "langfuse", "agenta"]
    """`mlflow`: a run for each task, experiment and evaluation that has ended; `langfuse`: the scores of
    tasks, beside the traces that it gets by `[tracing] otlp_endpoint`; `agenta`: registered prompts."""
    url: Annotated[str, http_url("https://mlflow.example.com"), AfterValidator(_without_user)]
    """The address of its server."""
    key: Secret | None = None
    """MLflow: a token, or `user:password`. Langfuse: `PUBLIC_KEY:SECRET_KEY`. Agenta: an API key."""
    experiment: str = Field(default="meshwright", min_length=1, max_length=500)
    """MLflow: the name of the experiment; it is made where it is missing."""
    application: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,100}$")] = ""
    """Agenta: the slug of the application whose variants the prompts are. It has to be there."""
    agents: tuple[Identifier, ...] = ()
    """The agents whose tasks it gets; without any, those of all."""
    tenant: Identifier = "default"
    """The tenant whose tasks it gets."""
    contents: bool = False
    """Whether it gets what was said too: results and errors of tasks as an artifact of MLflow, comments of
    scores. Secrets in them are hidden. Agenta gets texts of prompts, and so needs it."""
    networks: tuple[Network, ...] = ()
    """Private networks that its address may be in, also without TLS; else it must be public, by https."""

    @model_validator(mode="after")
    def _has_its_key(self) -> Self:
        if self.kind == "langfuse" and (self.key is None or not has_form(self.key, lambda key: ":" in key)):
            raise ValueError("a sink of the kind langfuse needs a key: PUBLIC_KEY:SECRET_KEY")
        if self.kind == "agenta" and not (self.key and self.application and self.contents):
            raise ValueError("a sink of the kind agenta needs key, application, and contents = true")
        return self


SinksSettings = Mapping[_SinkName, SinkSettings]
"""[sinks]: a table for each sink."""
