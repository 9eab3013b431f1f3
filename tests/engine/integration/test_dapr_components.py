"""A cluster takes the files of Dapr in `components/` and in the examples: checked by Dapr's own CRDs."""

from pathlib import Path

import pytest
import yaml

from tests.support.manifests import Schemas, problems, schemas_of_dapr
from tests.support.services import COMPONENTS

ROOT = COMPONENTS.parent
FILES = [
    path
    for folder in (COMPONENTS, ROOT / "docs" / "examples")
    for path in sorted(folder.rglob("*.yaml"))
    if "apiVersion: dapr.io" in path.read_text("utf-8")
]


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return schemas_of_dapr()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_cluster_takes_each_file_of_dapr(path: Path, schemas: Schemas) -> None:
    for document in yaml.safe_load_all(path.read_text("utf-8")):
        assert problems(schemas, document) == []


def test_a_wrong_or_missing_field_is_found(schemas: Schemas) -> None:
    document = yaml.safe_load((COMPONENTS / "config.yaml").read_text("utf-8"))
    del document["spec"]["metrics"]["enabled"]
    document["spec"]["tracng"] = {}
    found = " ".join(problems(schemas, document))
    assert "'enabled' is a required property" in found and "'tracng'" in found
