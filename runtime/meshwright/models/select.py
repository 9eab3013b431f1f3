"""Which model answers: what the settings say, or what the environment offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from meshwright.errors import ConfigError
from meshwright.models.config import names_in, read_config, read_text
from meshwright.models.offline import OfflineModel, estimate_tokens
from meshwright.models.picker import Cooldowns, Picker
from meshwright.models.port import Adapter
from meshwright.models.routing import missing_of
from meshwright.models.server import HttpModel
from meshwright.settings import Settings

_WELL_KNOWN_KEYS = (
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "MISTRAL_API_KEY",
    "GROQ_API_KEY",
    "DEEPSEEK_API_KEY",
    "OPENROUTER_API_KEY",
    "AZURE_API_KEY",
)
_KINDS = ("auto", "offline", "http", "router")


def choose_model(
    settings: Settings,
    config_path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    count_tokens: Callable[[str], int] = estimate_tokens,
    cooldowns: Cooldowns | None = None,
) -> Adapter:
    """Make the model that the settings name, or that the environment offers (`adapter = "auto"`).

    `config_path` is the litellm_config.yaml of `router`; it need not exist for the other kinds.

    `auto`: `http` where LITELLM_BASE_URL is set, `router` where a provider's key is (and a configuration is
    there), else `offline`. Its `name` says which, and why; never a key. `count_tokens` is what the offline
    model reports as usage. Raises ConfigError.
    """
    known = os.environ if environment is None else environment
    kind, why = settings.models.adapter, ""
    if kind not in _KINDS:
        raise ConfigError(
            f"There is no kind of model {kind!r}", remedy=f"Expected {', '.join(_KINDS)}", field="adapter"
        )
    if kind == "auto":
        kind, why = _offered(settings, config_path, known)
    if kind == "offline":
        return OfflineModel(count_tokens=count_tokens, why=why)
    if kind == "router":
        return Picker(config_path, environment=known, cooldowns=cooldowns, why=why)
    return _server(settings, config_path)


def _offered(settings: Settings, config_path: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """The kind that the environment offers, and why. Raises ConfigError for a broken file."""
    if settings.models.base_url:
        return "http", ""
    is_file = config_path.exists()
    named = names_in(read_text(config_path)) if is_file else _WELL_KNOWN_KEYS
    keys = [name for name in named if environment.get(name)]
    if not keys:
        unused = [name for name in _WELL_KNOWN_KEYS if environment.get(name)]
        if not unused or not is_file:
            return "offline", "neither LITELLM_BASE_URL nor a provider's key is set"
        read_config(config_path)
        return "offline", f"{unused[0]} is set, but no model of {config_path.name} uses it"
    if not is_file:
        return "offline", f"{keys[0]} is set, but there is no {config_path.name}"
    missing = [missing_of(each, environment) for each in read_config(config_path).deployments]
    if all(missing):
        names = ", ".join(sorted({name for names in missing for name in names}))
        return "offline", f"{keys[0]} is set, but nothing can be called without one of {names}"
    return "router", f"{keys[0]} is set"


def _server(settings: Settings, config_path: Path) -> HttpModel:
    if not settings.models.base_url:
        raise ConfigError(
            'model = "http" needs the address of a server',
            remedy="Set LITELLM_BASE_URL, like http://127.0.0.1:4000",
            field="litellm_base_url",
        )
    key, name = settings.models.api_key, settings.models.name
    return HttpModel(
        settings.models.base_url,
        key.get_secret_value() if key else None,
        model_name=name,
        why=f"every call is of {name}" if name else "",
        prices_file=config_path,
    )
