"""The files of `mesh k8s render`: a base of kustomize, and overlays for each store, with KEDA and without."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from meshwright.component import Settings
from meshwright.edges.http.settings import HttpSettings
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.kit import ConfigError
from meshwright.parts.k8s import objects
from meshwright.parts.k8s.objects import Document, Pods, PromptConfigMap
from meshwright.parts.k8s.settings import K8sSettings
from meshwright.parts.stack.services import MAX_BODY
from meshwright.parts.stack.settings import DaprSettings
from meshwright.parts.stack.stack import app_per_agent
from meshwright.toolsets.yaml_text import Unreadable, read_yaml

WRITTEN = "# Written by `mesh k8s render`: change the project, or patch this in an overlay of your own.\n"
"""The first line of each file, by which a later render knows its own."""
_FRONT, _WORKER, _MODELS = "front", "worker", "llm-service"
"""The app that is the front of a mesh on Dapr."""
_DOMAINS = ("", ".svc", ".svc.cluster.local")
_SIDECAR_PORT = 3000
_MAX_VALUES = 100_000  # of a file of components, with aliases written out
_BACKENDS = {
    "mqtt": ("MESH_BROKER_URL", "MESH_REDIS_HOST", "MESH_REDIS_PASSWORD"),
    "redis": ("MESH_REDIS_HOST", "MESH_REDIS_PASSWORD"),
}
"""The variables by which the components of Dapr find their store and their bus."""
# Dapr's sidecar keeps capabilities by default: pods with it do not meet the restricted standard.
_FOR_SIDECARS = {
    "target": {"kind": "Namespace"},
    "patch": "- op: replace\n"
    "  path: /metadata/labels/pod-security.kubernetes.io~1enforce\n"
    "  value: baseline\n",
}
_COMPONENTS = ("config.yaml", "env.yaml", "resiliency.yaml", "state.yaml")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Project:
    """All of a project that its manifests are made of.

    `agents` maps the agents' ids to the names of their prompts; those `at_front` run where the event log
    is. `prompts` are the texts of prompt files by name, `components` the folder of Dapr's.
    """

    settings: Settings
    agents: Mapping[str, str]
    at_front: frozenset[str]
    prompts: Mapping[str, str]
    components: Path


def rendered(project: Project) -> dict[PurePosixPath, str]:
    """Returns the text of each file by its path. The same project gives the same texts.

    Raises ConfigError for an agent whose id cannot name an object of Kubernetes.
    """
    config = project.settings[K8sSettings]
    prompts = [PromptConfigMap(name, text) for name, text in sorted(project.prompts.items())]
    front = [objects.service(_FRONT), *objects.network_policies(_FRONT)]
    if config.host:
        front.append(objects.ingress(config.host, config.tls_secret, _FRONT))
    base = {
        "namespace.yaml": [objects.namespace(config.namespace)],
        "front.yaml": front,
        "prompts.yaml": [prompt.document() for prompt in prompts],
    }
    # on SQLite the whole mesh is in one pod
    one = _app(project, _FRONT, "up", prompts=prompts, replicas=1, needs_secret=False, serves_api=True)
    several, apps = _several(project, prompts), _on_dapr(project, prompts)
    texts = dict(_folder("base", base))
    texts |= _overlay(project, "sqlite", {"front.yaml": one.documents()})
    texts |= _overlay(project, "postgres", {f"{app.name}.yaml": app.documents() for app in several})
    of_dapr = {f"{app.name}.yaml": app.documents() for app in apps}
    of_dapr |= {"components.yaml": _components(project, apps), "models.yaml": _models(apps)}
    present = {name: documents for name, documents in of_dapr.items() if documents}
    texts |= _overlay(project, "dapr", present, patches=[_FOR_SIDECARS])
    texts |= _scaling(project, "postgres", {"mesh": several[1]})
    texts |= _scaling(project, "dapr", {app.name: app for app in apps if app.name in project.agents})
    return texts


def _several(project: Project, prompts: Sequence[PromptConfigMap]) -> tuple[Pods, Pods]:
    """Fronts and workers that share a PostgreSQL database, of which each runs every agent."""
    fronts = 1 if project.settings[MqttSettings].url else 2  # one process alone may serve MQTT clients
    front = _app(project, _FRONT, "up", prompts=prompts, replicas=fronts, keeps_data=False, serves_api=True)
    serving = ("worker", "--port", str(objects.PORT))
    return front, _app(project, _WORKER, *serving, prompts=prompts, keeps_data=False)


def _on_dapr(project: Project, prompts: Sequence[PromptConfigMap]) -> list[Pods]:
    """An app for each agent and each part of the mesh, beside a sidecar."""
    by_name = {prompt.name: prompt for prompt in prompts}
    specs = app_per_agent([agent for agent in project.agents if agent not in project.at_front], 1)
    apps = []
    for spec in specs:
        if not _NAME.fullmatch(spec.app_id):
            raise ConfigError(
                f"The agent {spec.app_id!r} cannot be an app on Kubernetes",
                remedy="Give it an agent_id of at most 52 lower-case letters, digits and -, such as my-agent",
                field="agent_id",
            )
        used = project.agents.get(spec.app_id, spec.app_id)
        own = [by_name[used]] if used in by_name else []
        apps.append(
            _app(
                project,
                _FRONT if spec.front else spec.app_id,
                *("worker", "--app", spec.app_id),
                prompts=prompts if spec.front else own,
                annotations=_sidecar(project, spec.app_id),
                variables=_dapr_variables(project, spec.app_id),
                replicas=1 if spec.front else None,
                serves_api=spec.front,
            )
        )
    return apps


def _app(project: Project, name: str, *args: str, variables: Sequence[Document] = (), **fields: Any) -> Pods:
    config = project.settings[K8sSettings]
    hosts = [f"{_FRONT}{end}" for end in ("", *(f".{config.namespace}{end}" for end in _DOMAINS))]
    hosts += [_MODELS, *([config.host] if config.host else []), *project.settings[HttpSettings].allowed_hosts]
    allowed = {"name": "MESH_HTTP__ALLOWED_HOSTS", "value": json.dumps(hosts)}
    quantities = {"cpu": config.cpu, "memory": config.memory, "storage": config.storage}
    return Pods(name, args, image=config.image, variables=(allowed, *variables), **quantities, **fields)


def _sidecar(project: Project, app_id: str) -> dict[str, str]:
    variables = _BACKENDS[project.settings[DaprSettings].bus]
    return {
        "dapr.io/enabled": "true",
        "dapr.io/app-id": app_id,
        "dapr.io/app-port": str(_SIDECAR_PORT),
        "dapr.io/app-protocol": "grpc",
        "dapr.io/config": "mesh",
        "dapr.io/max-body-size": MAX_BODY,
        # It starts before the worker, and ends after it: a worker that drains still commits.
        "dapr.io/enable-native-sidecar": "true",
        "dapr.io/api-token-secret": "dapr-api-token",
        "dapr.io/app-token-secret": "app-api-token",
        "dapr.io/env-from-secret": ",".join(f"{name}={objects.SECRET}:{name}" for name in variables),
        "dapr.io/disable-builtin-k8s-secret-store": "true",
        "dapr.io/sidecar-seccomp-profile-type": "RuntimeDefault",
        "dapr.io/sidecar-cpu-request": "50m",
        "dapr.io/sidecar-memory-request": "64Mi",
        "dapr.io/sidecar-memory-limit": "256Mi",
    }


def _dapr_variables(project: Project, app_id: str) -> list[Document]:
    config, dapr = project.settings[K8sSettings], project.settings[DaprSettings]
    plain = {
        "APP_ID": app_id,
        "APP_PORT": str(_SIDECAR_PORT),
        "MESH_DAPR__NAMESPACE": config.namespace,
        "MESH_DAPR__BUS": dapr.bus,
        "MESH_DAPR__CHANNEL": "grpc",
    }
    tokens = {"DAPR_API_TOKEN": "dapr-api-token", "APP_API_TOKEN": "app-api-token"}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}}
            for name, secret in tokens.items()
        ),
    ]


def _components(project: Project, apps: Sequence[Pods]) -> list[Document]:
    """The project's components of Dapr, for the apps of the mesh alone."""
    bus = f"{project.settings[DaprSettings].bus}-bus"
    paths = [*(project.components / name for name in _COMPONENTS)]
    paths += [project.components / bus / f"{name}.yaml" for name in ("bus", "views")]
    parts = [document for path in paths for document in _documents(path)]
    scopes = [app.annotations["dapr.io/app-id"] for app in apps]
    return [
        {**document, "scopes": scopes} if document["kind"] == "Component" else document for document in parts
    ]


def _documents(path: Path) -> list[Document]:
    try:
        documents = read_yaml(path.read_text("utf-8"), max_values=_MAX_VALUES)
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        remedy = "Correct the file, or copy it from Meshwright's components"
        raise ConfigError(f"cannot be read: {error}", path=str(path), remedy=remedy) from error
    if not all(isinstance(document, dict) and "kind" in document for document in documents):
        raise ConfigError("holds a document without a kind", path=str(path), remedy="Name its kind")
    return documents


def _models(apps: Sequence[Pods]) -> list[Document]:
    """The address of the models, where an agent offers them, for Dapr's service invocation too."""
    if _MODELS not in [app.name for app in apps]:
        return []
    spec = {"baseUrl": f"http://{_MODELS}"}
    endpoint = {"apiVersion": "dapr.io/v1alpha1", "kind": "HTTPEndpoint", "metadata": {"name": _MODELS}}
    return [objects.service(_MODELS), {**endpoint, "spec": spec}]


def _scaling(project: Project, overlay: str, apps: Mapping[str, Pods]) -> dict[PurePosixPath, str]:
    """An overlay on an overlay, for clusters with KEDA. `apps` has them by their names in the mesh."""
    config = project.settings[K8sSettings]
    url = f"http://{_FRONT}.{config.namespace}.svc.cluster.local/scale"
    has_view = overlay == "postgres" and config.scaler == "postgresql"

    def trigger(name: str) -> Document:
        if has_view:
            return objects.asking_view(config.per_replica)
        return objects.asking_route(f"{url}/{name}", config.per_replica)

    scaled = [objects.scaled(app, trigger(name), config.max_replicas) for name, app in sorted(apps.items())]
    documents = {"scaling.yaml": [*([] if has_view else [objects.scale_key()]), *scaled]}
    return _overlay(project, f"{overlay}-keda", documents, on=f"../{overlay}")


def _overlay(
    project: Project,
    name: str,
    documents: Mapping[str, Sequence[Document]],
    on: str = "../../base",
    **rest: Any,
) -> dict[PurePosixPath, str]:
    namespace = project.settings[K8sSettings].namespace
    return dict(_folder(f"overlays/{name}", documents, resources=[on], namespace=namespace, **rest))


def _folder(
    path: str, documents: Mapping[str, Sequence[Document]], resources: Sequence[str] = (), **rest: Any
) -> Iterator[tuple[PurePosixPath, str]]:
    """The files of a folder for kustomize, with the one that lists them."""
    folder = PurePosixPath(path)
    listed = {"resources": [*resources, *documents]}
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    yield folder / "kustomization.yaml", _written([{**head, **rest, **listed}])
    for name, contents in documents.items():
        yield folder / name, _written(contents)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they stand, and no references within a file."""

    def ignore_aliases(self, data: Any) -> bool:
        """Whether an object is written again where it stands twice."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _written(documents: Sequence[Document]) -> str:
    texts = [yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110) for document in documents]
    return WRITTEN + "---\n".join(texts)
