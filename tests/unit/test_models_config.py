"""litellm_config.yaml: what is wrong in one is said with its line, and the project's own is right."""

from pathlib import Path

import pytest

from meshwright.errors import ConfigError
from meshwright.models.config import missing_names, names_in, read_config, resolved

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
model_list:
  - model_name: default
    litellm_params:
      model: openai/gpt-5.4-mini
      api_key: os.environ/A_KEY
      tags: [default, cheap]
  - model_name: backup
    litellm_params:
      model: ollama_chat/llama3.1
      api_base: os.environ/A_BASE  # not os.environ/NOT_THIS
router_settings:
  enable_tag_filtering: true
  fallbacks:
    - default: [backup]
  default_fallbacks: [backup]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "litellm_config.yaml"


def test_a_good_file_gives_its_groups_and_settings(path: Path) -> None:
    path.write_text(GOOD)
    config = read_config(path)
    assert config.groups == {"default", "backup"}
    assert config.router_settings["default_fallbacks"] == ["backup"]


def test_an_alias_is_a_group_too(path: Path) -> None:
    path.write_text(GOOD + "  model_group_alias: {gpt-4: default}\n")
    assert "gpt-4" in read_config(path).groups


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("model_list:\n", "model_lst:\n", 1, "no section 'model_lst': did you mean 'model_list'"),
        (
            "router_settings:",
            "include: [a.yaml]\nrouter_settings:",
            11,
            "include is read by a LiteLLM proxy alone",
        ),
        (
            "model: openai/gpt-5.4-mini",
            "model: [a]",
            4,
            r"model_list\[0\].litellm_params.model: expected a model like",
        ),
        (
            "model: openai/gpt-5.4-mini",
            "modell: x",
            4,
            r"litellm_params: LiteLLM reads no 'modell'. Did you mean 'model'",
        ),
        ("model: openai/gpt-5.4-mini", "tpm: 1", 3, r"litellm_params.model: .* found nothing"),
        ("tags: [default, cheap]", "tags: cheap", 6, "expected a list of tags, found str"),
        ("tags: [default, cheap]", "tags: [default, 3]", 6, r"tags\[1\]: expected a tag, found int"),
        (
            "- model_name: backup\n    ",
            "- ",
            7,
            r"model_list\[1\].model_name: expected the name of a group, found nothing",
        ),
        (
            "    - default: [backup]",
            "    - default: [bakup]",
            14,
            "no group 'bakup'; groups are backup, default",
        ),
        ("    - default: [backup]", "    - defalt: [backup]", 14, "no group 'defalt'"),
        ("    - default: [backup]", "    - default: backup", 14, "expected a list of groups, found str"),
        ("default_fallbacks: [backup]", "default_fallbacks: [none]", 15, "no group 'none'"),
        (
            "router_settings:\n",
            "router_settings: 7\nlitellm_settings:\n",
            11,
            "expected a mapping of settings, found int",
        ),
        ("enable_tag_filtering: true", "enable_tag_filtering: }", 12, "is not YAML"),
        ("model_list:", "\tmodel_list:", 1, "is not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(
    path: Path, old: str, new: str, line: int, said: str
) -> None:
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said) as refused:
        read_config(path)
    assert (refused.value.path, refused.value.line) == (str(path), line)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file: expected a mapping with model_list, found nothing"),
        ("- a\n- b\n", "the file: expected a mapping with model_list, found list"),
        ("model_list: []\n", "model_list is empty"),
        ("general_settings: {}\n", "model_list: expected a list of deployments, found nothing"),
        ("model_list: *nowhere\n", "is not YAML"),
        ("model_list: \x00\n", "is not YAML"),
    ],
)
def test_a_file_without_deployments_is_refused(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config(path)


def test_a_missing_file_is_said_with_the_setting_that_names_it(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such file.*litellm_config"):
        read_config(path)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(path)


def test_references_to_the_environment_are_found_and_resolved(path: Path) -> None:
    path.write_text(GOOD)
    first = read_config(path).deployments[0]
    assert names_in(GOOD) == ["A_KEY", "A_BASE"]
    assert missing_names(first, {"A_KEY": ""}) == {"A_KEY"}
    assert missing_names(first, {"A_KEY": "k"}) == set()
    assert resolved(first, {"A_KEY": "k"})["litellm_params"]["api_key"] == "k"
    assert first["litellm_params"]["api_key"] == "os.environ/A_KEY"


TAGS = [
    (["expensive", "coding"], True),
    (["expensive", "architecture"], True),
    (["expensive", "management"], True),
    (["research", "expensive"], True),
    (["research", "cheap"], False),
    (["medium"], False),
    (["research"], False),
    (["cheap", "monitoring"], False),
    (["compression"], False),
    (["default"], False),
]


@pytest.mark.parametrize(("tags", "is_expensive"), TAGS)
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_in_the_projects_own_file_each_providers_key_alone_serves_every_tag(
    provider: str, tags: list[str], is_expensive: bool
) -> None:
    deployments = [each["litellm_params"] for each in read_config(ROOT / "litellm_config.yaml").deployments]
    fitting = [
        each for each in deployments if each["model"].startswith(provider) and set(tags) <= set(each["tags"])
    ]
    preferred = [each for each in fitting if each["weight"]] or fitting
    assert preferred
    assert all(("expensive" in each["tags"]) is is_expensive for each in preferred)


def test_in_the_projects_own_file_every_group_answers_calls_with_any_tags() -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    by_default = {
        each["model_name"] for each in config.deployments if "default" in each["litellm_params"]["tags"]
    }
    assert by_default == config.groups == {"default", "quality", "fast"}


def test_the_projects_own_file_holds_no_key() -> None:
    for deployment in read_config(ROOT / "litellm_config.yaml").deployments:
        for name in ("api_key", "api_base"):
            assert deployment["litellm_params"].get(name, "os.environ/X").startswith("os.environ/")
