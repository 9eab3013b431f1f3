"""A cluster takes the files of Dapr in `components/` and in the examples: checked by Dapr's own CRDs."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.services import COMPONENTS, unavailable

ROOT = COMPONENTS.parent
FILES = [
    path
    for folder in (COMPONENTS, ROOT / "docs" / "examples")
    for path in sorted(folder.rglob("*.yaml"))
    if "apiVersion: dapr.io" in path.read_text("utf-8")
]


@pytest.fixture(scope="module")
def schemas() -> dict[tuple[str, str], Any]:
    """Schemas by apiVersion and kind, which refuse what they do not know, as `kubectl apply` does."""
    go_mod = (ROOT / "tools" / "dapr" / "go.mod").read_text()
    version = re.search(r"github.com/dapr/dapr (v\S+)", go_mod)
    assert version is not None
    try:
        asked = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True)
        cache = asked.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        cache = os.environ.get("GOMODCACHE", "")
    folder = Path(cache) / "github.com" / "dapr" / f"dapr@{version[1]}" / "charts" / "dapr" / "crds"
    if not folder.is_dir():
        unavailable(f"needs Dapr's CRDs in {folder}: run `go mod download` in tools/dapr")
    found: dict[tuple[str, str], Any] = {}
    for path in folder.glob("*.yaml"):
        definition = yaml.safe_load(path.read_text("utf-8"))["spec"]
        for one in definition["versions"]:
            kind = (f"{definition['group']}/{one['name']}", definition["names"]["kind"])
            found[kind] = strict(one["schema"]["openAPIV3Schema"])
    return found


def strict(schema: Any, *, is_root: bool = True) -> Any:
    """A schema in which an object has the fields that are listed and no others."""
    if isinstance(schema, list):
        return [strict(part, is_root=False) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(part, is_root=False) for name, part in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        properties = closed["properties"]
        if is_root:  # `metadata` is of Kubernetes
            closed["properties"] = {**properties, "metadata": {"required": ["name"]}}
        if not closed.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


def problems(schemas: dict[tuple[str, str], Any], document: dict[str, Any]) -> list[str]:
    schema = schemas[document["apiVersion"], document["kind"]]
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_cluster_takes_each_file_of_dapr(path: Path, schemas: dict[tuple[str, str], Any]) -> None:
    for document in yaml.safe_load_all(path.read_text("utf-8")):
        assert problems(schemas, document) == []


def test_a_wrong_or_missing_field_is_found(schemas: dict[tuple[str, str], Any]) -> None:
    document = yaml.safe_load((COMPONENTS / "config.yaml").read_text("utf-8"))
    del document["spec"]["metrics"]["enabled"]
    document["spec"]["tracng"] = {}
    found = " ".join(problems(schemas, document))
    assert "'enabled' is a required property" in found and "'tracng'" in found
