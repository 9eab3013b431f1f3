"""The providers of models, as data: their names, and which variables of the environment open them.

Any other provider that LiteLLM knows works too, by LiteLLM's own names for its variables.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from meshwright.errors import ConfigError
from meshwright.models.aliases import ALIASES, current

OFFLINE = "offline"
"""The name of the built-in model, which nobody offers and which needs no credentials."""
LITELLM_LIST = "provider_endpoints_support_backup.json"
"""The file of the `litellm` package that lists its providers."""


@dataclass(frozen=True, slots=True)
class Param:
    """One of LiteLLM's parameters of a deployment, and the variables that give it: the first that is set."""

    name: str
    variables: tuple[str, ...]
    default: str | None = None
    optional: bool = False

    def value(self, environment: Mapping[str, str]) -> str | None:
        """Where the value is to be found (`os.environ/NAME`), so that nothing here ever holds a key."""
        found = next((name for name in self.variables if environment.get(name)), None)
        return f"os.environ/{found}" if found else self.default

    def misses(self, environment: Mapping[str, str]) -> bool:
        """Whether a call is impossible, since nothing gives it."""
        return not self.optional and self.value(environment) is None


@dataclass(frozen=True, slots=True)
class Provider:
    """Who offers models. `families` are how names begin that need no `provider/` before them.

    `console` is where credentials are had; `package` what must be importable besides LiteLLM.
    """

    name: str
    title: str
    example: str
    params: tuple[Param, ...] = ()
    console: str = ""
    families: tuple[str, ...] = ()
    package: str = ""

    def variable(self, suffix: str) -> str:
        """The name of one of its own variables: `OPENAI_TIMEOUT_SECONDS`."""
        return f"{re.sub(r'[^A-Za-z0-9]', '_', self.name).upper()}_{suffix}"


def key(*variables: str, optional: bool = False, default: str | None = None) -> Param:
    """The provider's key."""
    return Param("api_key", variables, default, optional)


def base(*variables: str, optional: bool = True) -> Param:
    """The provider's address; where it is optional LiteLLM knows one."""
    return Param("api_base", variables, optional=optional)


VERTEX = (
    Param("vertex_project", ("VERTEXAI_PROJECT",)),
    Param("vertex_location", ("VERTEXAI_LOCATION",)),
    Param("vertex_credentials", ("GOOGLE_APPLICATION_CREDENTIALS",), optional=True),
)
AZURE = (
    key("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
    base("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT", optional=False),
    Param("api_version", ("AZURE_API_VERSION", "OPENAI_API_VERSION")),
)
BEDROCK = (
    Param("aws_access_key_id", ("AWS_ACCESS_KEY_ID",)),
    Param("aws_secret_access_key", ("AWS_SECRET_ACCESS_KEY",)),
    Param("aws_session_token", ("AWS_SESSION_TOKEN",), optional=True),
    Param("aws_region_name", ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION")),
)
PROVIDERS = (
    Provider(
        "openai",
        "OpenAI",
        "openai/gpt-5.4",
        (key("OPENAI_API_KEY"), base("OPENAI_BASE_URL", "OPENAI_API_BASE")),
        "https://platform.openai.com/api-keys",
        ("gpt-", "chatgpt-", "o1", "o3", "o4"),
    ),
    Provider(
        "anthropic",
        "Anthropic",
        "anthropic/claude-sonnet-4-6",
        (key("ANTHROPIC_API_KEY"), base("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")),
        "https://console.anthropic.com/settings/keys",
        ("claude-",),
    ),
    Provider(
        "gemini",
        "Google Gemini",
        "gemini/gemini-2.5-flash",
        (key("GEMINI_API_KEY", "GOOGLE_API_KEY"), base("GEMINI_API_BASE")),
        "https://aistudio.google.com/apikey",
        ("gemini-",),
    ),
    Provider(
        "vertex_ai",
        "Google Vertex AI",
        "vertex_ai/gemini-2.5-pro",
        VERTEX,
        "https://console.cloud.google.com/vertex-ai",
        package="google.auth",
    ),
    Provider(
        "cohere",
        "Cohere",
        "cohere/command-a-03-2025",
        (key("COHERE_API_KEY", "CO_API_KEY"), base("COHERE_API_BASE")),
        "https://dashboard.cohere.com/api-keys",
        ("command-",),
    ),
    Provider(
        "mistral",
        "Mistral",
        "mistral/mistral-large-latest",
        (key("MISTRAL_API_KEY"), base("MISTRAL_API_BASE")),
        "https://console.mistral.ai/api-keys",
        ("mistral-", "magistral-", "ministral-"),
    ),
    Provider(
        "groq",
        "Groq",
        "groq/llama-3.3-70b-versatile",
        (key("GROQ_API_KEY"), base("GROQ_API_BASE")),
        "https://console.groq.com/keys",
    ),
    Provider("azure", "Azure OpenAI", "azure/my-deployment", AZURE, "https://portal.azure.com"),
    Provider(
        "bedrock",
        "AWS Bedrock",
        "bedrock/anthropic.claude-sonnet-4-6",
        BEDROCK,
        "https://console.aws.amazon.com/iam",
        package="boto3",
    ),
    Provider(
        "ollama_chat",
        "Ollama",
        "ollama_chat/llama3.1",
        (base("OLLAMA_API_BASE", optional=False), key("OLLAMA_API_KEY", optional=True)),
        "https://ollama.com/download",
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "openrouter/anthropic/claude-sonnet-4.6",
        (key("OPENROUTER_API_KEY", "OR_API_KEY"), base("OPENROUTER_API_BASE")),
        "https://openrouter.ai/keys",
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "deepseek/deepseek-chat",
        (key("DEEPSEEK_API_KEY"), base("DEEPSEEK_API_BASE")),
        "https://platform.deepseek.com/api_keys",
        ("deepseek-",),
    ),
    Provider(
        "xai",
        "xAI",
        "xai/grok-4",
        (key("XAI_API_KEY"), base("XAI_API_BASE")),
        "https://console.x.ai",
        ("grok-",),
    ),
    Provider(
        "together_ai",
        "Together AI",
        "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
        (key("TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHER_API_KEY"), base("TOGETHER_AI_API_BASE")),
        "https://api.together.ai/settings/api-keys",
    ),
    Provider(
        "litellm_proxy",
        "a LiteLLM proxy",
        "litellm_proxy/default",
        (
            base("LITELLM_PROXY_API_BASE", optional=False),
            key("LITELLM_PROXY_API_KEY", default="none-needed"),
        ),
    ),
    Provider(
        "hosted_vllm",
        "vLLM",
        "hosted_vllm/llama-3.1-8b",
        (base("HOSTED_VLLM_API_BASE", optional=False), key("HOSTED_VLLM_API_KEY", default="none-needed")),
    ),
    Provider(
        "custom_openai",
        "any server with OpenAI's API",
        "custom_openai/my-model",
        (base("CUSTOM_OPENAI_API_BASE", optional=False), key("CUSTOM_OPENAI_API_KEY", default="none-needed")),
    ),
)
SAME = {"ollama": "ollama_chat", "cohere_chat": "cohere", "bedrock_converse": "bedrock"}
"""Other names of LiteLLM's whose variables are those of a provider above."""


def provider_of(model: str) -> tuple[Provider, str]:
    """Who offers a model, and its whole name (`gpt-5.4` is `openai/gpt-5.4`).

    Legacy names lead to their successors. Raises ConfigError for an unknown provider, with near ones.
    """
    name = current(model)
    prefix, slash, _ = name.partition("/")
    if not slash:
        provider = next((each for each in PROVIDERS if name.startswith(each.families)), None)
        if provider is None:
            raise unknown(f"model {model!r} does not say who offers it", name, candidates())
        return provider, f"{provider.name}/{name}"
    provider = next((each for each in PROVIDERS if each.name == SAME.get(prefix, prefix)), None)
    if provider is None and prefix in litellms_providers():
        provider = by_convention(prefix)
    if provider is None:
        names = [each.name for each in PROVIDERS] + sorted(litellms_providers())
        raise unknown(f"model {model!r}: there is no provider {prefix!r}", prefix, names)
    return provider, name


def provider_name(model: str) -> str:
    """Whose model a deployment's is, as LiteLLM names providers; "" where its name does not say it."""
    prefix, slash, _ = model.partition("/")
    if slash:
        return prefix
    return next((each.name for each in PROVIDERS if model.startswith(each.families)), "")


def provider_params(model: str) -> tuple[Param, ...]:
    """What gives the credentials and the address of a model's provider; nothing where it is not known."""
    prefix = provider_name(model)
    name = SAME.get(prefix, prefix)
    return next((each.params for each in PROVIDERS if each.name == name), ())


def bare_name(model: str) -> str:
    """A model's name as its provider knows it."""
    return model.partition("/")[2] or model


def by_convention(name: str) -> Provider:
    """One of LiteLLM's other providers: its key where the usual variable has it, else as LiteLLM finds it."""
    provider = Provider(name, name, f"{name}/MODEL")
    params = (
        key(provider.variable("API_KEY"), optional=True),
        base(provider.variable("API_BASE")),
    )
    return Provider(name, name, f"{name}/MODEL", params)


def litellms_providers() -> frozenset[str]:
    """The providers of chat models of the installed LiteLLM, read without importing it; none without it."""
    spec = importlib.util.find_spec("litellm")
    path = Path(spec.origin).with_name(LITELLM_LIST) if spec and spec.origin else None
    if path is None or not path.is_file():
        return frozenset()
    listed = json.loads(path.read_text("utf-8"))["providers"]
    return frozenset(name for name, each in listed.items() if each["endpoints"].get("chat_completions"))


def candidates() -> list[str]:
    """Names that somebody may have meant who wrote none with a provider."""
    return [*(each.example.partition("/")[2] for each in PROVIDERS), *ALIASES]


def unknown(message: str, name: str, known: list[str]) -> ConfigError:
    """The error for a name that leads to no provider."""
    near = get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    titles = ", ".join(each.name for each in PROVIDERS)
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"Providers are {titles}, and others of LiteLLM's."
    )
    return ConfigError(message, remedy=f"{hint} Write provider/model, like openai/gpt-5.4", field="model")


def missing(provider: Provider, model: str, environment: Mapping[str, str]) -> ConfigError | None:
    """What is missing to call a model of the provider, with where to get it; None if all is there."""
    wanted = [param for param in provider.params if param.misses(environment)]
    if wanted:
        names = ", ".join(" or ".join(param.variables) for param in wanted)
        console = f"; credentials are had at {provider.console}" if provider.console else ""
        verb = "is" if len(wanted) == 1 else "are"
        return ConfigError(
            f"model {model!r} is offered by {provider.title}, and {names} {verb} not set",
            remedy=f"Set {'it' if len(wanted) == 1 else 'them'} in the environment{console}",
            field="model",
        )
    if provider.package and not is_importable(provider.package):
        return ConfigError(
            f"model {model!r} is offered by {provider.title}, which LiteLLM calls by {provider.package}",
            remedy=f"Install it: pip install {provider.package.replace('.', '-')}",
            field="model",
        )
    return None


def is_importable(package: str) -> bool:
    """Whether a package is there; asks without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent
        return False
