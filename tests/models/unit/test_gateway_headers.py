"""Headers that a gateway wants are a setting, whose values nobody sees."""

import json
import logging
from pathlib import Path

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.settings.loading import load_settings
from meshwright.models.errors import ModelRefused
from meshwright.models.select import choose_model
from meshwright.models.server import AgentKeys
from meshwright.models.settings import ModelsSettings
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_requests import request

KEY = "pk-live-never-shown"
TABLE = """
[models]
base_url = "{url}"
api_key = "sk-of-the-proxy"
headers = {{ "X-Portkey-Provider" = "open-ai", "x-portkey-api-key" = "env:PORTKEY_KEY" }}
"""


async def test_each_call_has_the_headers_of_the_settings(
    fake: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PORTKEY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    (tmp_path / "mesh.toml").write_text(TABLE.format(url=fake.url))
    settings = load_settings(tmp_path)
    AgentKeys(settings.data_dir).put("default", "poet", key="sk-of-the-poet", token="t")
    model = choose_model(settings, tmp_path / "litellm_config.yaml", environment={})
    await model.complete(request())
    await model.complete(request(user="poet"), [].append)
    fake.faults.append(Fault(status=400, body={"error": {"message": f"no such key: {KEY}"}}))
    with pytest.raises(ModelRefused) as refused:
        await model.complete(request())
    await model.close()
    for call in fake.calls:
        headers = {name.lower(): value for name, value in call.headers.items()}
        assert (headers["x-portkey-provider"], headers["x-portkey-api-key"]) == ("open-ai", KEY)
    authorizations = [call.headers["Authorization"] for call in fake.calls[:2]]
    assert authorizations == ["Bearer sk-of-the-proxy", "Bearer sk-of-the-poet"]
    shown = [str(refused.value), repr(settings), repr(settings[ModelsSettings]), model.name, caplog.text]
    assert not [text for text in shown if KEY in text]


def test_an_environment_variable_sets_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_MODELS__HEADERS", json.dumps({"x-portkey-config": KEY}))
    headers = load_settings(tmp_path)[ModelsSettings].headers
    assert {name: value.get_secret_value() for name, value in headers.items()} == {"x-portkey-config": KEY}


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"x portkey": KEY}, "is no name of a header"),
        ({"Content-Type": KEY}, "is set by the mesh itself"),
        ({"x-portkey-config": f"{KEY}\r\nx-other: 1"}, "holds characters that no header may hold"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(
    tmp_path: Path, headers: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_MODELS__HEADERS", json.dumps(headers))
    monkeypatch.setenv("LITELLM_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=words) as refused:
        choose_model(load_settings(tmp_path), tmp_path / "none.yaml", environment={})
    assert KEY not in str(refused.value)
