"""Secrets of settings from a secret store of Dapr, by a real sidecar."""

import asyncio
import json
from pathlib import Path

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.settings import load_settings
from meshwright.parts.stack.machine import Ports
from tests.run import DAPR
from tests.support.services import Services

pytestmark = pytest.mark.needs(*DAPR)
STORE = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: vault}}
spec:
  type: secretstores.local.file
  version: v1
  metadata: [{{name: secretsFile, value: {path}}}]
"""


async def test_a_secret_of_daprs_store_is_a_setting(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (tmp_path / "secrets.json").write_text(json.dumps({"broker": "a-password-of-daprs"}))
    (resources / "vault.yaml").write_text(STORE.format(path=tmp_path / "secrets.json"))
    ports = Ports()
    http, grpc, internal = ports.take(3)
    arguments = [f"--resources-path={resources}", f"--dapr-http-port={http}", f"--dapr-grpc-port={grpc}"]
    arguments += [f"--dapr-internal-grpc-port={internal}", "--enable-metrics=false"]
    sidecar = await asyncio.create_subprocess_exec(
        services.program("daprd"), "--app-id=mesh", *arguments, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        monkeypatch.setenv("DAPR_HTTP_PORT", str(http))
        monkeypatch.setenv("MESH_MQTT__PASSWORD", "dapr:vault/broker")
        settings = await asyncio.to_thread(load_settings, tmp_path)  # the sidecar is still starting
        assert settings.mqtt.password is not None
        assert settings.mqtt.password.get_secret_value() == "a-password-of-daprs"
        monkeypatch.setenv("MESH_MQTT__PASSWORD", "dapr:vault/nothing")
        settings = await asyncio.to_thread(load_settings, tmp_path)  # as for a command that does not need it
        assert settings.mqtt.password is not None
        with pytest.raises(
            ConfigError, match="MESH_MQTT__PASSWORD: dapr:vault/nothing: the sidecar answered"
        ):
            settings.mqtt.password.get_secret_value()
    finally:
        sidecar.terminate()
        await sidecar.wait()
        ports.close()
