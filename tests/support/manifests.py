"""Schemas of what Kubernetes, Dapr and KEDA take, which refuse a field that they do not know."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.support.services import unavailable

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(__file__).with_name("schemas")
Schemas = dict[tuple[str, str], Any]
"""Schemas by apiVersion and kind."""


def schemas_of_dapr() -> Schemas:
    """Those of Dapr's CRDs."""
    return of_crds(*crds_of_dapr())


def crds_of_dapr() -> list[Path]:
    """Dapr's CRDs, from the Go module of the version that we build. Skips where it is not there."""
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
    return sorted(folder.glob("*.yaml"))


def schemas_of_keda() -> Schemas:
    """Those of KEDA's CRDs."""
    return of_crds(*SCHEMAS.glob("keda.sh_*.yaml"))


def schemas_of_kubernetes() -> Schemas:
    """Those of the kinds that we write."""
    found = json.loads((SCHEMAS / "kubernetes.json").read_text())
    kinds = {tuple(name.split()): schema for name, schema in found["kinds"].items()}
    return {
        (version, kind): {**schema, "definitions": found["definitions"]}
        for (version, kind), schema in kinds.items()
    }


def of_crds(*paths: Path) -> Schemas:
    """The schemas in files of CRDs."""
    found: Schemas = {}
    for path in paths:
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


def problems(schemas: Schemas, document: dict[str, Any]) -> list[str]:
    schema = schemas[document["apiVersion"], document["kind"]]
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
