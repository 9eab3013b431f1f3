"""`compose.yaml`: what compose takes, and settings and files that are there."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from meshwright.core import __version__
from meshwright.core.settings import load_settings
from meshwright.parts.k8s.settings import K8sSettings
from tests.support.manifests import SCHEMAS

ROOT = Path(__file__).resolve().parents[3]
PROFILES = {
    "sqlite": {"mesh"},
    "postgres": {"postgres", "front", "worker"},
    "dapr": {"redis", "mosquitto", "placement", "scheduler", "mesh-dapr", "daprd"},
    "litellm": {"litellm"},
    "ollama": {"ollama"},
    "mlflow": {"mlflow"},
    "langfuse": {
        f"langfuse-{name}" for name in ("web", "worker", "postgres", "clickhouse", "redis", "minio")
    },
    "agenta": {
        *("agenta-web", "agenta-api", "agenta-streams", "agenta-queues", "agenta-migrations"),
        *("agenta-supertokens", "agenta-gateway", "agenta-postgres", "agenta-redis"),
    },
}
OF_THE_IMAGE = {"front"}
"""Services whose health check is that of `Dockerfile.agent`."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def faults(document: dict[str, Any]) -> list[str]:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    checked = jsonschema.validators.validator_for(schema)(schema)
    return [f"{error.json_path}: {error.message}" for error in checked.iter_errors(document)]


def test_compose_takes_the_file(compose: dict[str, Any]) -> None:
    assert faults(compose) == []
    compose["services"]["worker"]["depend_on"] = ["postgres"]
    assert "depend_on" in faults(compose)[0]
    del compose["services"]["worker"]["depend_on"]


def test_each_profile_has_its_services_and_all_that_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {
        profile: {name for name, service in services.items() if profile in service["profiles"]}
        for profile in PROFILES
    } == PROFILES
    for names in PROFILES.values():
        assert {other for name in names for other in services[name].get("depends_on", ())} <= names


def test_what_a_service_waits_for_can_come(compose: dict[str, Any]) -> None:
    waited = [
        (other, needed["condition"])
        for service in compose["services"].values()
        if isinstance(needs := service.get("depends_on"), dict)
        for other, needed in needs.items()
    ]
    healthy = {name for name, condition in waited if condition == "service_healthy"}
    ended = {name for name, condition in waited if condition == "service_completed_successfully"}
    assert "HEALTHCHECK" in (ROOT / "Dockerfile.agent").read_text()
    assert healthy - OF_THE_IMAGE == {name for name in healthy if "healthcheck" in compose["services"][name]}
    assert ended and all(compose["services"][name]["restart"] == "no" for name in ended)


def test_no_two_services_take_one_port_of_this_machine(compose: dict[str, Any]) -> None:
    beside = [name for profile in list(PROFILES)[3:] for name in PROFILES[profile]]
    ports = [port.split(":")[1] for name in beside for port in compose["services"][name].get("ports", ())]
    assert len(ports) == len(set(ports)) and "8000" not in ports


def test_every_file_and_volume_that_is_mounted_is_there(compose: dict[str, Any]) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", ())]
    sources = {mount.partition(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(compose["volumes"])
    assert all((ROOT / source).exists() for source in sources if source.startswith("."))
    given = {
        config["source"] for service in compose["services"].values() for config in service.get("configs", ())
    }
    assert given == set(compose["configs"])


def test_the_image_is_that_of_this_version(compose: dict[str, Any]) -> None:
    built = {service["image"] for service in compose["services"].values() if "build" in service}
    assert built == {K8sSettings().image} == {f"meshwright-agent:{__version__}"}


def test_only_this_machine_reaches_a_port(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["front", "worker", "mesh-dapr"])
def test_a_mesh_knows_the_settings_that_it_is_given(
    compose: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in compose["services"][name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(tmp_path)
    if name == "mesh-dapr":
        assert settings.http.behind_tls and settings.dapr.redis_host == "redis:6379"
    else:
        assert settings.database is not None
