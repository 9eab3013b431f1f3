"""How Dapr's service invocation reaches the llm-service: by an HTTPEndpoint of that name.

daprd calls a worker over gRPC, which has no room for a status and a body of its own: so it calls the
HTTP port.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from meshwright.stack.services import Service

LLM_SERVICE = "llm-service"
FOLDER = "invocation"
"""Of the data folder: what the sidecar of any client of Dapr on this machine may take as well."""


def reaching_models(sidecar: Service, data: Path, url: str) -> Service:
    """A sidecar whose clients may invoke the llm-service at that URL."""
    folder = data / FOLDER
    endpoint = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "HTTPEndpoint",
        "metadata": {"name": LLM_SERVICE},
        "spec": {"baseUrl": url},
    }
    return replace(
        sidecar,
        argv=(*sidecar.argv, f"--resources-path={folder}"),
        files={**sidecar.files, folder / f"{LLM_SERVICE}.yaml": json.dumps(endpoint, indent=2) + "\n"},
    )
