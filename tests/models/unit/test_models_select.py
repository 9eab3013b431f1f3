"""Which model answers, by settings and environment."""

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.plugins import install_command
from meshwright.models.litellm import RELEASE
from meshwright.models.offline_model import OfflineModel
from meshwright.models.picker import Picker
from meshwright.models.port import Model
from meshwright.models.select import choose_model
from meshwright.models.server import HttpModel
from tests.support.settings import Settings

CONFIG = """\
model_list:
  - model_name: default
    litellm_params: {model: openai/gpt-5.4-mini, api_key: os.environ/MY_KEY, tags: [default]}
  - model_name: default
    litellm_params: {model: ollama_chat/llama3.1, api_base: os.environ/MY_OLLAMA, tags: [default]}
"""
URL = "http://127.0.0.1:4000"
SECRET = "sk-never-shown"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "litellm_config.yaml"
    path.write_text(CONFIG)
    return path


def choose(path: Path, environment: Mapping[str, str] | None = None, **settings: Any) -> Model:
    return choose_model(Settings(**settings), path, environment=environment or {})


@pytest.fixture
def without_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without the extra, as far as anybody can ask."""
    monkeypatch.setitem(sys.modules, "litellm", None)


def test_with_nothing_set_the_offline_model_answers_and_says_why(path: Path) -> None:
    model = choose(path)
    assert isinstance(model, OfflineModel)
    assert model.name == "offline (neither LITELLM_BASE_URL nor a provider's key is set)"


def test_a_base_url_chooses_that_server(path: Path) -> None:
    model = choose(path, {"MY_KEY": SECRET}, litellm_base_url=URL, litellm_api_key=SECRET)
    assert isinstance(model, HttpModel)
    assert model.name == f"http {URL}"


def test_a_key_that_the_configuration_names_chooses_the_router(path: Path) -> None:
    model = choose(path, {"MY_KEY": SECRET})
    assert isinstance(model, Picker)
    assert model.name == "router litellm_config.yaml (MY_KEY is set; 1 of 2 deployments)"


def test_a_usual_key_that_the_configuration_does_not_name_is_said(path: Path) -> None:
    model = choose(path, {"OPENAI_API_KEY": SECRET})
    assert model.name == "offline (OPENAI_API_KEY is set, but no model of litellm_config.yaml uses it)"


@pytest.mark.parametrize(
    "params",
    [
        "{model: openai/gpt-5.4-mini, api_key: sk-in-the-file}",
        "{model: hosted_vllm/qwen, api_base: 'http://127.0.0.1:8000/v1'}",
        "{model: ollama/llama3.1}",
    ],
)
def test_a_configuration_with_all_it_needs_is_used_without_any_variable(path: Path, params: str) -> None:
    path.write_text(f"model_list:\n  - model_name: default\n    litellm_params: {params}\n")
    model = choose(path)
    assert isinstance(model, Picker)
    assert model.name.startswith("router litellm_config.yaml (litellm_config.yaml has what it needs")
    assert "sk-" not in model.name


@pytest.mark.parametrize("name", ["ollama/llama3.1", "anthropic/claude-sonnet-4-6", "gpt-5.4"])
def test_a_model_by_its_name_answers_every_group(path: Path, name: str) -> None:
    environment = {"ANTHROPIC_API_KEY": SECRET, "OPENAI_API_KEY": SECRET}
    model = choose(path, environment, model=name)
    assert isinstance(model, Picker)
    assert model.name == f"model {name}"
    assert {"default", "quality", "fast", name} <= model.groups()


def test_a_name_beside_an_address_is_of_that_server(path: Path) -> None:
    model = choose(path, model="llama3.1", litellm_base_url=URL)
    assert isinstance(model, HttpModel)
    assert model.model_name == "llama3.1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rooter", "does not say who offers it.*or write one of auto, offline, http, router"),
        ("opnai/gpt-5.4", "there is no provider 'opnai'.*Did you mean openai"),
        ("mistral/small", "MISTRAL_API_KEY is not set"),
    ],
)
def test_a_model_that_cannot_be_called_is_refused_with_what_to_do(path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(path, model=name)


def test_a_broken_configuration_does_not_pass_for_one_that_uses_no_key(path: Path) -> None:
    path.write_text("model_list: [\n")
    with pytest.raises(ConfigError, match=r"litellm_config.yaml:\d"):
        choose(path, {"OPENAI_API_KEY": SECRET})
    assert isinstance(choose(path), OfflineModel)


def test_a_key_without_a_configuration_is_said(tmp_path: Path) -> None:
    model = choose(tmp_path / "litellm_config.yaml", {"OPENAI_API_KEY": SECRET})
    assert model.name == "offline (OPENAI_API_KEY is set, but there is no litellm_config.yaml)"


@pytest.mark.usefixtures("without_litellm")
def test_a_key_of_openai_needs_no_litellm(path: Path) -> None:
    assert isinstance(choose(path, {"MY_KEY": SECRET}), Picker)


@pytest.mark.usefixtures("without_litellm")
def test_a_key_of_a_provider_that_needs_litellm_says_what_to_install(path: Path) -> None:
    path.write_text(CONFIG.replace("openai/gpt-5.4-mini", "gemini/gemini-2.5-flash"))
    assert install_command("litellm") in choose(path, {"MY_KEY": SECRET}).name
    with pytest.raises(ConfigError, match=re.escape(install_command("litellm"))):
        choose(path, {"MY_KEY": SECRET}, model="router")


def test_a_broken_configuration_is_said_before_any_call(path: Path) -> None:
    path.write_text(CONFIG.replace("model_name", "modelname", 1))
    with pytest.raises(ConfigError, match=r"litellm_config\.yaml:2: .*model_name"):
        choose(path, {"MY_KEY": SECRET})


def test_what_the_settings_name_is_made_whatever_the_environment_offers(path: Path) -> None:
    environment = {"MY_KEY": SECRET}
    assert choose(path, environment, litellm_base_url=URL, model="offline").name == "offline"
    assert isinstance(choose(path, environment, litellm_base_url=URL, model="router"), Picker)


def test_the_router_without_any_key_names_the_keys(path: Path) -> None:
    with pytest.raises(ConfigError, match="Set one of MY_KEY, MY_OLLAMA"):
        choose(path, model="router")


def test_a_server_without_its_address_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="LITELLM_BASE_URL"):
        choose(path, model="http")


@pytest.mark.parametrize(
    "settings", [{}, {"litellm_base_url": URL, "litellm_api_key": SECRET}, {"model": "router"}]
)
def test_no_name_holds_a_key(path: Path, settings: dict[str, Any]) -> None:
    assert SECRET not in choose(path, {"MY_KEY": SECRET}, **settings).name


def test_the_extra_installs_the_release_that_the_router_takes() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["litellm"] == [f"litellm=={RELEASE}"]
