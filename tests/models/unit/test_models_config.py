"""litellm_config.yaml: what is wrong in one is said with its line, and the project's own is right."""

import ast
import importlib.util
from pathlib import Path

import pytest

from meshwright.core.errors import ConfigError
from meshwright.models.config import known_names, missing_names, names_in, read_config, resolved

ROOT = Path(__file__).resolve().parents[3]
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
        ("tags: [default, cheap]", "tags: !!timestamp x", 6, "not YAML: the tag !!timestamp is not allowed"),
        ("tags: [default, cheap]", "tags: !!set {a}", 6, "not YAML: the tag !!set is not allowed"),
        ("tags: [default, cheap]", "tags: !ruby x", 6, "not YAML: the tag !ruby is not allowed"),
        ("tags: [default, cheap]", "weight: 0b_", 6, "not YAML: '0b_' is no plain value"),
        ("tags: [default, cheap]", "weight: !!int ''", 6, "not YAML: '' is no plain value"),
        (
            "      tags: [default, cheap]",
            "      input_cost_per_token: -1.0e-6",
            6,
            r"litellm_params.input_cost_per_token: a price cannot be -1e-06",
        ),
        (
            "      tags: [default, cheap]",
            "      input_cost_per_token: 3e-6",
            6,
            "input_cost_per_token: expected dollars, found '3e-6'. YAML takes 3e-6 for text: write 3.0e-6",
        ),
        (
            "      tags: [default, cheap]",
            "      input_cost_per_token: 1.0e+300",
            6,
            "litellm_params.input_cost_per_token: a price cannot be 1e.300. Write 0 to 1,000 dollars",
        ),
        (
            "      tags: [default, cheap]",
            f"      input_cost_per_token: 0x{'f' * 9_000}",
            6,
            "litellm_params.input_cost_per_token: a price cannot be so high",
        ),
        (
            "      tags: [default, cheap]",
            "    model_info: {output_cost_per_token: .inf}",
            6,
            "model_info.output_cost_per_token: a price cannot be inf",
        ),
        (
            "    - default: [backup]",
            "    - default: [backup]\n    - backup: [default]",
            14,
            "fallbacks run in a circle: default -> backup -> default. Leave one of them out",
        ),
        ("    - default: [backup]", "    - default: [default]", 14, "circle: default -> default"),
        ("    - default: [backup]", "    - default: [[a]]", 14, "expected the name of a group, found list"),
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
        ("model_list: !!timestamp x\n", "is not YAML"),
        ("model_list: !!bool x\n", "is not YAML"),
        ("model_list: 0b_\n", "is not YAML"),
        ("model_list: \x00\n", "is not YAML"),
    ],
)
def test_a_file_without_deployments_is_refused(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config(path)


def test_a_missing_file_is_said_with_the_setting_that_names_it(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such file.*the setting models\.config"):
        read_config(path)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(path)


def test_what_only_an_owner_knows_may_stand_in_model_info(path: Path) -> None:
    path.write_text(GOOD.replace("      tags: [default, cheap]", "    model_info: {house: blue, mode: chat}"))
    assert read_config(path).deployments[0]["model_info"]["house"] == "blue"


def test_a_fallback_may_be_a_group_that_stands_for_many(path: Path) -> None:
    path.write_text(
        GOOD.replace("model_name: backup", 'model_name: "open*"').replace("[backup]", "[openai/x]")
    )
    assert read_config(path).router_settings["default_fallbacks"] == ["openai/x"]


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        (
            "enable_tag_filtering: true",
            "num_retries: 2",
            12,
            "router_settings.num_retries is not followed in the mesh. Set it to 0",
        ),
        (
            "      tags: [default, cheap]",
            "      max_retries: 3",
            6,
            r"litellm_params.max_retries is not followed in the mesh. Set it to 0",
        ),
        (
            "enable_tag_filtering: true",
            "enable_tag_filtering: false",
            11,
            "deployments have tags, which pick nothing. Set enable_tag_filtering: true",
        ),
        (
            "      tags: [default, cheap]",
            "      rpm: 3",
            6,
            r"litellm_params.rpm is a limit in the mesh, and only a weight at a proxy. Add optional_pre_call",
        ),
        (
            "      tags: [default, cheap]",
            "      mock_response: hello",
            6,
            r"litellm_params.mock_response: no model is asked, and the ledger books tokens that are made up",
        ),
        (
            "      tags: [default, cheap]",
            "      weight: 1\n  - model_name: default\n    litellm_params: {model: x}",
            8,
            "some deployments of group 'default' have a weight, and this one has none",
        ),
    ],
)
def test_what_a_file_hardly_means_is_a_warning_with_its_line(
    path: Path, old: str, new: str, line: int, said: str
) -> None:
    path.write_text(GOOD.replace(old, new, 1))
    warning = next(each for each in read_config(path).warnings if said in str(each))
    assert (warning.path, warning.line) == (str(path), line)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        (
            "      tags: [default, cheap]",
            "      modell: x",
            6,
            "modell: we know no such name, and the provider may refuse it. Did you mean 'model'",
        ),
        ("      tags: [default, cheap]", "      tag: [cheap]", 6, "litellm_params.tag: we know no such name"),
        ("      tags: [default, cheap]", "    model_info: {base_modl: x}", 6, "Did you mean 'base_model'"),
        (
            "enable_tag_filtering: true",
            "enable_tag_filterng: true",
            12,
            "router_settings.enable_tag_filterng: we know no such name, and nothing reads it. Did you mean",
        ),
        (
            "router_settings:\n",
            "litellm_settings:\n  cooldown_time: 5\nrouter_settings:\n",
            12,
            "litellm_settings.cooldown_time: we know no such name, and nothing reads it. It belongs under "
            "router_settings",
        ),
        ("router_settings:\n", "router_settings:\n  colour: red\n", 12, "colour: we know no"),
        ("router_settings:\n", "general_setings: {}\nrouter_settings:\n", 11, "mean 'general_settings'"),
        (
            "enable_tag_filtering: true",
            "redis_host: somewhere",
            12,
            "router_settings.redis_host is for a proxy: the mesh does not follow it",
        ),
    ],
)
def test_a_name_that_is_not_known_or_not_followed_is_a_warning_with_its_line(
    path: Path, old: str, new: str, line: int, said: str
) -> None:
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    warning = next(each for each in read_config(path).warnings if said in str(each))
    assert (warning.path, warning.line) == (str(path), line)


def test_a_limit_that_is_enforced_and_retries_that_are_off_warn_of_nothing(path: Path) -> None:
    text = GOOD.replace("      tags: [default, cheap]", "      rpm: 3\n      tags: [default]")
    enforced = text + "  optional_pre_call_checks: [enforce_model_rate_limits]\n  num_retries: 0\n"
    path.write_text(enforced)
    assert read_config(path).warnings == ()


def test_every_deployment_has_an_id_of_its_own(path: Path) -> None:
    one = "  - model_name: default\n    litellm_params: {model: openai/gpt-5.4-mini}\n"
    path.write_text("model_list:\n" + one + one)
    ids = [each["model_info"]["id"] for each in read_config(path).deployments]
    assert ids == ["default/openai/gpt-5.4-mini", "default/openai/gpt-5.4-mini#2"]


def test_an_id_that_the_file_gives_stays(path: Path) -> None:
    path.write_text(GOOD.replace("      tags: [default, cheap]", "    model_info: {id: mine}"))
    assert read_config(path).deployments[0]["model_info"]["id"] == "mine"


def test_the_known_settings_are_those_that_the_installed_router_takes() -> None:
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        pytest.skip("LiteLLM is not installed")
    tree = ast.parse(Path(spec.origin).with_name("router.py").read_text("utf-8"))
    router = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == "Router")
    made = next(each for each in router.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
    taken = {each.arg for each in made.args.args} - {"self", "model_list"}
    assert known_names()["router_settings"] == taken


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
    (["coding", "medium"], False),
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
    preferred = [each for each in fitting if each.get("weight")] or fitting
    assert preferred
    assert all(("expensive" in each["tags"]) is is_expensive for each in preferred)


def test_in_the_projects_own_file_every_group_answers_calls_with_any_tags() -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    by_default = {
        each["model_name"] for each in config.deployments if "default" in each["litellm_params"]["tags"]
    }
    assert by_default == config.groups == {"default", "quality", "fast"}


def test_the_projects_own_file_warns_of_nothing() -> None:
    assert read_config(ROOT / "litellm_config.yaml").warnings == ()


def test_the_projects_own_file_holds_no_key() -> None:
    for deployment in read_config(ROOT / "litellm_config.yaml").deployments:
        for name in ("api_key", "api_base"):
            assert deployment["litellm_params"].get(name, "os.environ/X").startswith("os.environ/")


@pytest.mark.parametrize("text", ["2001-99-99", "2001-01-01", "2001-01-01T00:00:00Z"])
def test_a_date_is_the_text_that_it_is(path: Path, text: str) -> None:
    path.write_text(GOOD.replace("      tags: [default, cheap]", f"    model_info: {{description: {text}}}"))
    assert read_config(path).deployments[0]["model_info"]["description"] == text


def test_anchors_and_merge_keys_are_followed(path: Path) -> None:
    shared = "litellm_settings: &shared {request_timeout: 7}\n"
    path.write_text(f"{shared}{GOOD}  <<: {{timeout: 9}}\ncallback_settings: *shared\n")
    assert read_config(path).router_settings["timeout"] == 9


def test_a_list_that_holds_itself_is_an_error_with_file_and_line(path: Path) -> None:
    path.write_text("model_list: &a [*a]\n")
    with pytest.raises(ConfigError, match=r"litellm_config\.yaml:1: "):
        read_config(path)


@pytest.mark.parametrize(
    "name", ["cache_control_injection_points", "provider", "mirostat", "enable_thinking", "min_p", "colour"]
)
def test_a_parameter_that_is_not_known_is_a_warning_with_its_line(path: Path, name: str) -> None:
    path.write_text(GOOD.replace("tags: [default, cheap]", f"{name}: 1"))
    [warning] = read_config(path).warnings
    told = f"litellm_config.yaml:6: model_list[0].litellm_params.{name}: we know no such name"
    assert told in str(warning)


@pytest.mark.parametrize(
    ("line", "warns"),
    [
        ("api_key: os.environ/AWS_SECRET_ACCESS_KEY", True),
        ("extra_headers: {x-key: os.environ/GITHUB_TOKEN}", True),
        ("api_key: os.environ/HOUSE_API_KEY", False),
    ],
)
def test_a_variable_of_another_system_that_is_sent_away_is_a_warning(
    path: Path, line: str, warns: bool
) -> None:
    params = f"{line}\n      api_base: http://there.example/v1"
    path.write_text(GOOD.replace("api_key: os.environ/A_KEY", params))
    told = [str(each) for each in read_config(path).warnings]
    assert bool(told) is warns
    assert all("is sent to http://there.example/v1" in each and "yaml:5" in each for each in told)
