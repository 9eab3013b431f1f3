"""Settings come from four places, in order, and a mistake in one is named with its place."""

import re
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.settings import load_settings
from meshwright.edges.http.settings import HttpSettings
from meshwright.mesh.identity.broker_rights import broker_acl

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def write(project: Path, text: str) -> str:
    path = project / "mesh.toml"
    path.write_text(text)
    return str(path)


def test_nothing_configured_gives_the_defaults(tmp_path):
    settings = load_settings(tmp_path)
    assert settings.http.host == "127.0.0.1"
    assert settings.models.adapter == "auto"
    assert settings.durability == "full"


def test_the_file_is_stronger_than_the_defaults(tmp_path):
    write(tmp_path, 'durability = "normal"\n[http]\nport = 9000\n')
    settings = load_settings(tmp_path)
    assert (settings.http.port, settings.durability) == (9000, "normal")


def test_the_environment_is_stronger_than_the_file(tmp_path, monkeypatch):
    write(tmp_path, "[http]\nport = 9000\n")
    monkeypatch.setenv("MESH_HTTP__PORT", "9001")
    assert load_settings(tmp_path).http.port == 9001


def test_an_argument_is_stronger_than_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MESH_HTTP__PORT", "9001")
    assert load_settings(tmp_path, http={"port": 9002}).http.port == 9002
    assert load_settings(tmp_path, http={"port": None}, durability=None).http.port == 9001


def test_an_empty_variable_counts_as_unset(tmp_path, monkeypatch):
    monkeypatch.setenv("MESH_HTTP__PORT", "")
    monkeypatch.setenv("LITELLM_BASE_URL", "")
    settings = load_settings(tmp_path)
    assert (settings.http.port, settings.models.base_url) == (8000, None)


def test_the_usual_names_work_without_prefix_and_yield_to_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_DIR", "/their/prompts")
    monkeypatch.setenv("LITELLM_BASE_URL", "http://theirs:4000")
    monkeypatch.setenv("LITELLM_API_KEY", "sk-theirs")
    monkeypatch.setenv("MESH_MODELS__BASE_URL", "http://ours:4000")
    settings = load_settings(tmp_path)
    assert settings.prompts.dir == Path("/their/prompts")
    assert settings.models.base_url == "http://ours:4000"
    assert settings.models.api_key is not None
    assert settings.models.api_key.get_secret_value() == "sk-theirs"


def test_a_secret_never_prints(tmp_path, monkeypatch):
    monkeypatch.setenv("LITELLM_API_KEY", "sk-secret")
    settings = load_settings(tmp_path)
    assert "sk-secret" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("models", "api_key", "123456"),
        ("dapr", "redis_password", "123456"),
        ("dapr", "broker_url", '"http://mesh:123456@host"'),
        ("mqtt", "url", '"mqtt://mesh:123456@host"'),
        ("mqtt", "password", "123456"),
    ],
)
def test_a_secret_of_a_wrong_type_is_not_repeated(tmp_path, table, name, value):
    write(tmp_path, f"[{table}]\n{name} = {value}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert f"{table}.{name}" in str(caught.value)
    assert "123456" not in str(caught.value)


def test_a_text_in_the_environment_is_never_read_as_json(tmp_path, monkeypatch):
    monkeypatch.setenv("MESH_DAPR__REDIS_PASSWORD", "[1]")
    monkeypatch.setenv("MESH_HTTP__ALLOWED_HOSTS", '["Mesh.example.com"]')
    monkeypatch.setenv("MESH_TRACING", '{"turns": true}')
    settings = load_settings(tmp_path)
    assert settings.dapr.redis_password is not None
    assert settings.dapr.redis_password.get_secret_value() == "[1]"
    assert settings.http.allowed_hosts == ("mesh.example.com",)
    assert settings.tracing.turns and settings.tracing.enabled


@pytest.mark.parametrize("text", ["[mqtt]\npassword = 7", "[mqtt]\npassword = '7'\nunknown = 1"])
def test_a_table_never_shows_its_secrets(tmp_path, text):
    write(tmp_path, text.replace("7", "123456"))
    with pytest.raises(ConfigError, match="mqtt") as caught:
        load_settings(tmp_path)
    assert "123456" not in str(caught.value)


def test_variables_of_other_programs_are_settings_without_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MESH_ADMIN_TOKEN", "t" * 32)
    monkeypatch.setenv("MESH_BROKER_URL", "mqtt://there")
    settings = load_settings(tmp_path)
    assert settings.keys.admin_token is not None and settings.dapr.broker_url is not None
    assert caplog.messages == []


def test_the_environment_gives_one_setting_of_a_table_and_the_file_the_others(tmp_path, monkeypatch):
    write(tmp_path, "[http]\nport = 1\nhost = '::1'\n")
    monkeypatch.setenv("MESH_HTTP__PORT", "2")
    settings = load_settings(tmp_path)
    assert (settings.http.port, settings.http.host) == (2, "::1")


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('# ours\n\ndurabilty = "full"', 3, "there is no setting 'durabilty'. did you mean 'durability'?"),
        ("port = 9000", 1, "there is no setting 'port'. did you mean 'http.port'?"),
        (
            "data_dir = 'd'\n[zzz]\nx = 1",
            2,
            "there is no table [zzz]. a component brings its table: install its package, "
            "which may be called meshwright-zzz",
        ),
        (
            "[orchestrtion]\nmax_attempts = 1",
            1,
            "there is no table [orchestrtion]. did you mean [orchestration]",
        ),
        (
            "[models]\ndefault_price = { input = 3, output = 15 }",
            2,
            "models.default_price: there is no such setting. did you mean 'ledger.default_price'?",
        ),
        ("[[schedules]]\nid = 'a'", 1, "schedules: expected a table: write [[schedules.jobs]]"),
        (
            "[schedules.nightly]\ncron = '0 7 * * *'",
            1,
            "schedules.nightly: there is no such setting. did you mean [[schedules.jobs]]?",
        ),
        ("[http]\nhost = '::1'\nprot = 1", 3, "http.prot: there is no such setting. did you mean 'port'?"),
        (
            '[coding.fixer]\nprogramm = "codex"',
            2,
            "coding.fixer.programm: there is no such setting. did you mean 'program'?",
        ),
        ('[tools]\nworkspace = "/nope"', 2, "tools.workspace: expected a folder that exists, not '/nope'"),
        (
            "[http]\nport = 1\n\n[presence]\nheartbeat_seconds = 'x'",
            5,
            "presence.heartbeat_seconds: must be a number, not 'x'",
        ),
        ("[presence]\ndegraded_after_seconds = 10", 1, "presence: heartbeat_seconds, degraded"),
        ('durability = "max"', 1, "durability: must be 'full' or 'normal', not 'max'"),
        ("[http]\nport = 70000", 2, "http.port: must be at most 65535, not '70000'"),
        ("[tracing]\nenabled = [1]", 2, "tracing.enabled: must be true or false, not '[1]'"),
        (
            '[tracing]\notlp_endpoint = "collector:4318"',
            2,
            "tracing.otlp_endpoint: expected a URL with http:// or https://, like http://127.0.0.1:4318/v1/traces",
        ),
        (
            '[[ledger.budgets]]\nname = "research"\nlimit_usd = "five"',
            3,
            "ledger.budgets[0].limit_usd: must be a number, not 'five'",
        ),
        (
            '[[approvals.rules]]\ntool = "a"\n[approvals.rules.arguments]\npath = "b"\n\n'
            '[[approvals.rules]]\ntool = "c"\n[approvals.rules.arguments]\npath = "d"\nmode = 7\n',
            10,
            "approvals.rules[1].arguments.mode: expected text, not '7'",
        ),
        (
            '[[approvals.rules]]\ntool = "a"\n\n[[approvals.rules]]\napprovers = ["a"]\ncount = 2\n',
            4,
            "approvals.rules[1]: count = 2 takes as many approvers, and names 1",
        ),
        (
            '[dapr]\nnamespace = "Team A"',
            2,
            "dapr.namespace: expected lower-case letters, digits and hyphens, like team-a",
        ),
        (
            '[mqtt]\nurl = "localhost:1883"',
            2,
            "mqtt.url: expected a URL without a user (mqtt.username), like mqtt://127.0.0.1:1883, not",
        ),
        ('[mqtt]\nurl = "mqtt://localhost:99999"', 2, "mqtt.url: expected a port from 1 to 65535"),
        ('[http]\nallowed_hosts = ["mesh:99999"]', 2, "http.allowed_hosts[0]: expected a port from 1"),
        (
            '[mqtt]\nprefix = "mesh/#"',
            2,
            "mqtt.prefix: expected letters, digits, _ and - in parts joined by /, like home/mesh, not 'm",
        ),
        (
            '[dapr]\nredis_host = "redis://here"',
            2,
            "dapr.redis_host: expected host:port, like 127.0.0.1:6379, not 'redis:",
        ),
        (
            '[models]\nbase_url = "proxy:4000"',
            2,
            "models.base_url: expected a URL with http:// or https://, "
            "like http://127.0.0.1:4000, not 'proxy:4000'",
        ),
    ],
)
def test_a_wrong_value_names_its_line_and_what_was_expected(tmp_path, text, line, expected):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert str(caught.value).startswith(f"{path}:{line}: {expected}")
    assert (caught.value.path, caught.value.line) == (path, line)


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ("listen_port = \n", 1, "put text in quotes"),
        ("model = gpt-4\n", 1, "put text in quotes"),
        ("a = 1\na = 2\n", 2, "keep one of the lines"),
        ("[http]\nport = 1\n[page]\n[http]\n", 4, "below the second heading"),
        ('folder = "C:\\Users"\n', 1, "single quotes"),
        ('folder = "C:\\work"\n', 1, "single quotes"),
        ("trace = true\nworkspace = 'un", 2, "name = "),
        ("x = [\n\n", 2, "put text in quotes"),
    ],
)
def test_a_file_that_is_not_toml_names_the_line_and_the_remedy(tmp_path, text, line, remedy):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match="is not TOML") as caught:
        load_settings(tmp_path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert remedy in caught.value.remedy


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "mesh.toml").write_bytes(b"[http]\nport = 1\n# \xff")
    with pytest.raises(ConfigError, match=r"mesh\.toml:3: is not UTF-8. save it as UTF-8"):
        load_settings(tmp_path)
    (tmp_path / "mesh.toml").unlink()
    (tmp_path / "mesh.toml").mkdir()
    with pytest.raises(ConfigError, match=r"mesh\.toml: cannot be read: Is a directory. make it readable"):
        load_settings(tmp_path)


def test_a_wrong_variable_is_named(tmp_path, monkeypatch):
    write(tmp_path, "[http]\nport = 9000\n")
    monkeypatch.setenv("MESH_HTTP__PORT", "http")
    with pytest.raises(ConfigError, match=r"^MESH_HTTP__PORT: must be a whole number, not 'http'"):
        load_settings(tmp_path)
    monkeypatch.delenv("MESH_HTTP__PORT")
    monkeypatch.setenv("LITELLM_BASE_URL", "nowhere")
    with pytest.raises(ConfigError, match=r"^LITELLM_BASE_URL: "):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"mqtt": {"url": "127.0.0.1"}},
            "mqtt.url: expected a URL without a user (mqtt.username), like mqtt",
        ),
        ({"orchestration": {"max_attempts": 0}}, "orchestration.max_attempts: must be at least 1, not '0'"),
    ],
)
def test_a_wrong_option_is_named_by_its_place_in_the_tables(tmp_path, options, said):
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, **options)
    assert str(caught.value).startswith(said)


def test_an_option_that_is_not_given_leaves_the_blame_to_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MESH_HTTP__PORT", "http")
    with pytest.raises(ConfigError, match=r"^MESH_HTTP__PORT: "):
        load_settings(tmp_path, http={"port": None, "host": "::1"})


@pytest.mark.parametrize(
    ("publishers", "reason"),
    [
        ({"mesh": {}}, "the mesh uses it itself"),
        ({"a": {}, "b": {}}, "which another one has"),
        ({"a": {"topic": "bus/default/events"}}, "which is of the mesh itself"),
        ({"a": {"results": "tasks"}}, "is answered on a topic"),
        ({"a": {"topic": "tasks/#"}}, "topic"),
    ],
)
def test_publishers_have_topics_of_their_own(tmp_path: Path, publishers: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_settings(tmp_path, dapr={"publishers": publishers})


def test_a_publisher_has_rights_on_its_topics_alone(tmp_path: Path) -> None:
    publishers = {"orders": {"topic": "shop/tasks"}}
    lines = broker_acl(
        load_settings(tmp_path, dapr={"publishers": publishers}, keys={"required": True}), "edge"
    )
    rights = lines[lines.index("user orders") + 1 :]
    assert rights == ["topic write shop/tasks", "topic read task-receipts", "topic read task-results"]
    with pytest.raises(ConfigError, match="give it two names"):
        load_settings(tmp_path, dapr={"publishers": publishers}, mqtt={"clients": [{"user": "orders"}]})


def test_the_documented_file_changes_nothing(tmp_path: Path) -> None:
    defaults = load_settings(tmp_path)
    block = re.search(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    write(tmp_path, block[1])
    assert load_settings(tmp_path) == defaults


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MESH_LEDGER__BUDGETS": '[{"name": '}, "MESH_LEDGER__BUDGETS is not JSON"),
        ({"MESH_HTTP__PROT": "1"}, "MESH_HTTP__PROT: there is no such setting"),
        (
            {"MESH_LEDGER__DEFAULT_PRICE__INPUT": "abc", "MESH_LEDGER__DEFAULT_PRICE__OUTPUT": "1"},
            "MESH_LEDGER__DEFAULT_PRICE__INPUT: must be a number, not 'abc'",
        ),
        ({"MESH_LEDGER__DEFAULT_PRICE__INPUT": "3"}, "MESH_LEDGER__DEFAULT_PRICE.output: is missing"),
        (
            {"MESH_LEDGER__BUDGETS": '[{"name": "x", "limit_usd": "-1"}]'},
            "MESH_LEDGER__BUDGETS[0].limit_usd: expected dollars from 0 to 1,000,000,000",
        ),
    ],
)
def test_a_part_of_a_setting_that_the_environment_gives_wrongly_is_named(
    tmp_path, monkeypatch, variables, said
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize("prefix", ["mesh/replies", "mesh", "bus/default", "bus"])
def test_replies_lie_outside_of_the_topics_where_the_mesh_listens(tmp_path, prefix):
    write(tmp_path, f'[mqtt]\nreply_prefix = "{prefix}"')
    with pytest.raises(ConfigError, match="reply_prefix must lie outside of prefix"):
        load_settings(tmp_path)


def test_a_table_is_had_by_its_class(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("[http]\nport = 8123\n")
    settings = load_settings(tmp_path)
    assert settings[HttpSettings] is settings.table("http")
    assert settings[HttpSettings].port == 8123
    with pytest.raises(KeyError, match="Part"):
        settings[type("Part", (HttpSettings,), {})]
