"""Whatever the document allows, and much that it does not, is answered as the document says."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import schemathesis
from anyio import to_thread
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.run import SOAKING
from tests.support.http_mesh import Api, http_mesh

CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
SETTINGS = settings(
    max_examples=10 if SOAKING else 5,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    # No traces: span ids come from `random`, which Hypothesis does not want used while it makes cases.
    async with http_mesh(tmp_path, trace=False) as api:
        yield api


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
async def test_every_operation_keeps_to_the_document(api, mode):
    negative = mode is schemathesis.GenerationMode.NEGATIVE

    def call_all() -> None:
        schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json", timeout=60)
        for result in schema.get_all_operations():
            operation = result.ok()
            definition = operation.definition.raw
            takes_something = "parameters" in definition or "requestBody" in definition
            if operation.path != "/events/stream" and (takes_something or not negative):
                call(operation.as_strategy(generation_mode=mode))

    def call(cases) -> None:
        @SETTINGS
        @given(case=cases)
        def answered(case: schemathesis.Case) -> None:
            response = case.call(timeout=60)
            assert response.status_code != 500, response.text
            case.validate_response(response, checks=CHECKS)

        answered()

    await to_thread.run_sync(call_all)
