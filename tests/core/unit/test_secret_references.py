"""Settings that hold a secret say where it is; what cannot be read is named, and never shown."""

from pathlib import Path

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.settings import Settings, load_settings
from meshwright.mesh.app import build_mesh

SECRET = "a-password-that-stays-hidden"


def load(folder: Path, reference: str) -> Settings:
    (folder / "mesh.toml").write_text(f'[mqtt]\npassword = "{reference}"\n')
    settings = load_settings(folder)
    settings.require_secrets()
    return settings


def password(folder: Path, reference: str) -> str:
    settings = load(folder, reference)
    assert settings.mqtt.password is not None
    assert SECRET not in repr(settings) and SECRET not in settings.model_dump_json()
    return settings.mqtt.password.get_secret_value()


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").mkdir()
    for name in ("token", "credentials/broker"):
        (tmp_path / name).write_text(f"{SECRET}\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.setenv("BROKER", SECRET)


@pytest.mark.parametrize(
    "reference", ["env:BROKER", "file:{}/token", "kubernetes:{}/token", "systemd:broker", SECRET]
)
def test_a_reference_is_read_at_the_start(tmp_path: Path, reference: str) -> None:
    assert password(tmp_path, reference.format(tmp_path)) == SECRET


@pytest.mark.parametrize("text", ["", "with:colon", "https://x", "Env:BROKER", "file"])
def test_what_is_no_reference_is_the_secret_itself(tmp_path: Path, text: str) -> None:
    assert password(tmp_path, text) == text


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("env:NOT_THERE", "the environment has no NOT_THERE"),
        ("file:{}/nothing", "cannot be read: No such file or directory"),
        ("file:token", "the path has to be absolute"),
        ("file:{}", "cannot be read: Is a directory"),
        ("file:{}/empty", "is empty"),
        ("file:{}/binary", "is no text"),
        ("file:/dev/zero", "it has over 65,536 bytes"),
        ("systemd:../token", "name a credential, not a path"),
        ("systemd:other", "cannot be read: No such file or directory"),
        ("dapr:store", "expected dapr:STORE/NAME"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named_with_its_setting(
    tmp_path: Path, reference: str, problem: str
) -> None:
    reference = reference.format(tmp_path)
    with pytest.raises(ConfigError) as wrong:
        load(tmp_path, reference)
    message = str(wrong.value)
    assert message.startswith(f"{tmp_path}/mesh.toml:2: mqtt.password: {reference}")
    assert problem in message and SECRET not in message


def test_a_reference_in_a_list_and_in_the_environment_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_SECRETS__KEYS", '["env:BROKER", "env:NOT_THERE"]')
    with pytest.raises(ConfigError) as wrong:
        load_settings(tmp_path).require_secrets()
    expected = r"MESH_SECRETS__KEYS[1]: env:NOT_THERE: the environment has no NOT_THERE"
    assert str(wrong.value).startswith(expected) and SECRET not in str(wrong.value)
    monkeypatch.setenv("MESH_SECRETS__KEYS", '["env:BROKER"]')
    assert [key.get_secret_value() for key in load_settings(tmp_path).secrets.keys] == [SECRET]


def test_a_secret_of_another_form_than_expected_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_DAPR__BROKER_URL", "env:BROKER")
    with pytest.raises(ConfigError, match="expected a URL like mqtt://") as wrong:
        load_settings(tmp_path)
    assert SECRET not in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'[mqtt]\npassword = ["{SECRET}"]', "mqtt.password: expected text"),
        (f'[keys]\nadmin_token = "{SECRET}"', "keys.admin_token: expected at least 32 characters"),
        (f'[webhooks.sources]\ngithub = "{SECRET}"', "webhooks.sources.github: expected a table"),
        (f'[[channels]]\ntoken = "{SECRET}"', "channels: expected a table: write [channels.NAME]"),
        (f'[[channels.chat]]\ntoken = "{SECRET}"', "channels.chat: expected a table: write [channels.chat]"),
        (
            f'[mcp.crm]\nheaders = {{ Authorization = ["{SECRET}"] }}',
            "mcp.crm.headers.Authorization: expected",
        ),
        (f'[mcp.crm]\nenv = {{ KEY = ["{SECRET}"] }}', "mcp.crm.env.KEY: expected text"),
        (
            f'[[webhooks.sources]]\nsecret = "{SECRET}"',
            "webhooks.sources: expected a table: write [webhooks.sources.NAME]",
        ),
    ],
)
def test_a_secret_in_a_wrong_place_is_not_shown(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "mesh.toml").write_text(text)
    with pytest.raises(ConfigError) as wrong:
        load_settings(tmp_path)
    assert problem in str(wrong.value) and SECRET not in str(wrong.value)


def test_a_wrong_port_of_the_sidecar_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_HTTP_PORT", "soon")
    with pytest.raises(ConfigError, match="DAPR_HTTP_PORT is no port: 'soon'"):
        load(tmp_path, "dapr:vault/broker")


def test_an_unusable_key_stops_the_start(tmp_path: Path) -> None:
    settings = Settings(store="memory", secrets={"keys": [SECRET]})
    with pytest.raises(ConfigError, match=r"secrets\.keys holds something that is no key") as wrong:
        build_mesh(settings, project=tmp_path, agents=[])
    assert SECRET not in str(wrong.value)


def test_systemd_without_credentials_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match="LoadCredential="):
        load(tmp_path, "systemd:broker")
