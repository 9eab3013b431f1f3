"""Which model answers: what the settings say, or what the environment offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from meshwright.errors import ConfigError
from meshwright.models.config import names_in, read_config, read_text
from meshwright.models.http import HttpModel
from meshwright.models.litellm_release import installed_release
from meshwright.models.offline import OfflineModel, estimate_tokens
from meshwright.models.port import Model
from meshwright.models.prices import Prices
from meshwright.models.router import RouterModel
from meshwright.money import Price

WELL_KNOWN_KEYS = (
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "MISTRAL_API_KEY",
    "GROQ_API_KEY",
    "DEEPSEEK_API_KEY",
    "OPENROUTER_API_KEY",
    "AZURE_API_KEY",
)
EXTRA = "pip install -e '.[litellm]' in a checkout"


class Secret(Protocol):
    """A value that prints as stars."""

    def get_secret_value(self) -> str:
        """The value itself."""
        ...


class ModelSettings(Protocol):
    """The settings that choose a model."""

    @property
    def model(self) -> str:
        """`auto`, `offline`, `http` or `router`."""
        ...

    @property
    def litellm_base_url(self) -> str | None:
        """The base URL of an OpenAI-compatible server."""
        ...

    @property
    def model_name(self) -> str | None:
        """The one model of that server that answers every call; None for a proxy that knows our groups."""
        ...

    @property
    def litellm_api_key(self) -> Secret | None:
        """The key for that server."""
        ...


class Chooser:
    """Makes the model that the settings and the environment ask for; its `name` says which, and why."""

    def __init__(
        self,
        settings: ModelSettings,
        config_path: Path,
        environment: Mapping[str, str],
        count_tokens: Callable[[str], int],
    ) -> None:
        self.settings = settings
        self.config_path = config_path
        self.environment = environment
        self.count_tokens = count_tokens

    def choose(self) -> Model:
        """Make the model. Raises ConfigError for a kind that is not known."""
        makers = {"auto": self.auto, "offline": self.offline, "http": self.http, "router": self.router}
        kind = self.settings.model
        if kind not in makers:
            raise ConfigError(
                f"There is no kind of model {kind!r}", remedy=f"Expected {', '.join(makers)}", field="model"
            )
        return makers[kind]()

    def auto(self) -> Model:
        """A server if one is named, else the Router if a provider's key is set, else the offline model."""
        if self.settings.litellm_base_url:
            return self.http()
        keys = self.keys()
        if not keys:
            return self.offline(self._why_no_key())
        if installed_release() is None:
            return self.offline(f"{keys[0]} is set, but LiteLLM is not installed: {EXTRA}")
        if not self.config_path.is_file():
            return self.offline(f"{keys[0]} is set, but there is no {self.config_path.name}")
        return self.router(f"{keys[0]} is set")

    def _why_no_key(self) -> str:
        """Why no key counts. Raises ConfigError for a broken configuration, which would use none."""
        unused = [name for name in WELL_KNOWN_KEYS if self.environment.get(name)]
        if not unused or not self.config_path.exists():
            return "neither LITELLM_BASE_URL nor a provider's key is set"
        read_config(self.config_path)
        return f"{unused[0]} is set, but no model of {self.config_path.name} uses it"

    def offline(self, why: str = "") -> Model:
        """The built-in model."""
        return OfflineModel(count_tokens=self.count_tokens, why=why)

    def http(self) -> Model:
        """The server at the base URL."""
        if not self.settings.litellm_base_url:
            raise ConfigError(
                'model = "http" needs the address of a server',
                remedy="Set LITELLM_BASE_URL, like http://127.0.0.1:4000",
                field="litellm_base_url",
            )
        key, name = self.settings.litellm_api_key, self.settings.model_name
        return HttpModel(
            self.settings.litellm_base_url,
            key.get_secret_value() if key else None,
            model_name=name,
            why=f"every call is of {name}" if name else "",
        )

    def router(self, why: str = "") -> Model:
        """LiteLLM's Router."""
        return RouterModel(self.config_path, environment=self.environment, why=why)

    def keys(self) -> list[str]:
        """The variables that hold a provider's key or address: those of the configuration, or well-known."""
        named = names_in(read_text(self.config_path)) if self.config_path.exists() else WELL_KNOWN_KEYS
        return [name for name in named if self.environment.get(name)]


def choose_model(
    settings: ModelSettings,
    config_path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    count_tokens: Callable[[str], int] = estimate_tokens,
) -> Model:
    """Make the model that the settings name, or that the environment offers (`model = "auto"`).

    `config_path` is the Router's litellm_config.yaml; it need not exist for the other kinds.

    `auto`: `http` where LITELLM_BASE_URL is set, `router` where a provider's key is (and LiteLLM and a
    configuration are there), else `offline`. Its `name` says which, and why; never a key. `count_tokens`
    is what the offline model reports as usage. Raises ConfigError.
    """
    known = os.environ if environment is None else environment
    return Chooser(settings, config_path, known, count_tokens).choose()


def prices_for(model: Model, config_path: Path, default: Price | None) -> Prices:
    """What calls of that model cost: by its file, and by that of the project where a server answers.

    The offline model is free. Raises ConfigError where a server's project has a file that is broken.
    """
    if isinstance(model, OfflineModel):
        return Prices.free()
    if isinstance(model, RouterModel):
        return Prices.of(model.config, default, model.environment)
    if isinstance(model, HttpModel) and model.model_name is not None:
        return Prices(default=default, model=model.model_name)
    is_server = isinstance(model, HttpModel) and config_path.is_file()
    return Prices.of(read_config(config_path) if is_server else None, default)
