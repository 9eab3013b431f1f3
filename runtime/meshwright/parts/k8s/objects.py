"""Objects of Kubernetes as plain data: workloads of the restricted standard, and what surrounds them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]

NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
MESH = "meshwright"
PORT = 8000
CLIENTS = "meshwright/clients"
"""The label of namespaces whose pods may call the API."""
SECRET = "mesh"
"""The Secret whose entries are variables of every container: addresses of stores, tokens, keys of models."""
_USER = 10001
_GRACE_SECONDS = 60
_DRAIN = ("timeout", "45", "mesh", "drain", "--wait")  # the rest of the grace is for the stop
_PROMPTS, _DATA = "/prompts", "/data"
_RESTRICTED: Document = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_METADATA_SERVICE = "169.254.169.254/32"


def named(api: str, kind: str, name: str, **rest: Any) -> Document:
    """An object of that name, with the labels that all of a mesh have, and its other fields."""
    metadata = {"name": name, "labels": labels(name)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def labels(name: str) -> Document:
    """The labels of the pods of an app, and of what belongs to it."""
    return {NAME: name, PART_OF: MESH}


@dataclass(frozen=True, slots=True)
class PromptConfigMap:
    """A prompt file, in a ConfigMap whose name changes with the text: pods that use it are rolled."""

    name: str
    text: str

    @property
    def config_map(self) -> str:
        """The name of its ConfigMap."""
        digest = hashlib.sha256(f"{self.name}\n{self.text}".encode()).hexdigest()[:10]
        return f"prompt-{re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')[:40]}-{digest}"

    def document(self) -> Document:
        """Its ConfigMap, which cannot change under a running pod."""
        data = {f"{self.name}.prompt": self.text}
        return named("v1", "ConfigMap", self.config_map, immutable=True, data=data)


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods that run `mesh` with the same arguments.

    `keeps_data` gives each pod a name and a volume that stay. `needs_secret`: without the Secret no pod
    starts. `variables` are added to those that every pod has.
    """

    name: str
    args: Sequence[str]
    image: str
    cpu: str
    memory: str
    storage: str
    prompts: Sequence[PromptConfigMap] = ()
    keeps_data: bool = True
    needs_secret: bool = True
    replicas: int | None = None
    """None: as many as there are, so that what scales them is not undone."""
    serves_api: bool = False
    """Whether it can be asked to drain before it is stopped; a worker drains when it is."""
    variables: Sequence[Document] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of its workload: pods with data of their own have names that stay."""
        return "StatefulSet" if self.keeps_data else "Deployment"

    def documents(self) -> list[Document]:
        """Its workload, its account and its disruption budget."""
        selector = {"matchLabels": labels(self.name)}
        spec: Document = {} if self.replicas is None else {"replicas": self.replicas}
        spec |= {"selector": selector, "template": self._template()}
        if self.keeps_data:
            # Pods start in any order, and one that fails does not hold up the others.
            spec |= {"serviceName": self.name, "podManagementPolicy": "Parallel"}
            resources = {"requests": {"storage": self.storage}}
            claim = {"accessModes": ["ReadWriteOnce"], "resources": resources}
            spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
        return [
            named("v1", "ServiceAccount", self.name, automountServiceAccountToken=False),
            named("apps/v1", self.kind, self.name, spec=spec),
            named(
                "policy/v1",
                "PodDisruptionBudget",
                self.name,
                spec={"maxUnavailable": 1, "selector": selector},
            ),
        ]

    def _template(self) -> Document:
        metadata: Document = {"labels": labels(self.name)}
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        volumes: list[Document] = [
            {
                "name": "prompts",
                "projected": {
                    "sources": [{"configMap": {"name": prompt.config_map}} for prompt in self.prompts]
                },
            },
            {"name": "tmp", "emptyDir": {}},
        ]
        if not self.keeps_data:
            volumes.append({"name": "data", "emptyDir": {}})
        return {
            "metadata": metadata,
            "spec": {
                "serviceAccountName": self.name,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": _GRACE_SECONDS,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _USER,
                    "runAsGroup": _USER,
                    "fsGroup": _USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [self._container()],
                "volumes": volumes,
            },
        }

    def _container(self) -> Document:
        environment = {
            "MESH_HTTP__HOST": "0.0.0.0",
            "MESH_HTTP__PORT": str(PORT),
            "MESH_HTTP__BEHIND_TLS": "true",
            # Kubernetes gives a volume to a group; the mesh wants a folder of its user alone.
            "MESH_DATA_DIR": f"{_DATA}/mesh",
            "MESH_DRAIN_SECONDS": "45",
            "PROMPT_DIR": _PROMPTS,
        }
        container = {
            "name": "mesh",
            "image": self.image,
            "args": list(self.args),
            "env": [
                *({"name": name, "value": value} for name, value in environment.items()),
                *self.variables,
            ],
            "envFrom": [{"secretRef": {"name": SECRET, "optional": not self.needs_secret}}],
            "ports": [{"name": "http", "containerPort": PORT}],
            "startupProbe": _probe("/healthz", every=1, failures=120),
            "readinessProbe": _probe("/readyz", every=5, failures=2),
            "livenessProbe": _probe("/healthz", every=10, failures=3),
            "resources": {
                "requests": {"cpu": self.cpu, "memory": self.memory},
                "limits": {"memory": self.memory},
            },
            "securityContext": _RESTRICTED,
            "volumeMounts": [
                {"name": "prompts", "mountPath": _PROMPTS, "readOnly": True},
                {"name": "data", "mountPath": _DATA},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }
        if self.serves_api:
            container["lifecycle"] = {"preStop": {"exec": {"command": list(_DRAIN)}}}
        return container


def _probe(path: str, *, every: int, failures: int) -> Document:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": every,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def namespace(name: str) -> Document:
    """The namespace, which refuses pods that do not meet the restricted standard."""
    standard = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    document = named("v1", "Namespace", name)
    document["metadata"]["labels"] = {PART_OF: MESH, **standard}
    return document


def service(name: str) -> Document:
    """The address of an app that serves HTTP."""
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return named("v1", "Service", name, spec={"selector": labels(name), "ports": ports})


def ingress(host: str, secret: str, app: str) -> Document:
    """The place where TLS ends before an app."""
    backend = {"service": {"name": app, "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec = {
        "tls": [{"hosts": [host], "secretName": secret}],
        "rules": [{"host": host, "http": {"paths": [path]}}],
    }
    return named("networking.k8s.io/v1", "Ingress", app, spec=spec)


def network_policies(front: str) -> list[Document]:
    """Pods of the mesh reach one another, and those of namespaces with the label `CLIENTS` the API.

    Agents reach every address but that of the cloud's metadata service, which hands out credentials.
    """
    everywhere: list[Document] = [
        {"namespaceSelector": {}},
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": [_METADATA_SERVICE]}},
        {"ipBlock": {"cidr": "::/0"}},
    ]
    of_mesh = {"podSelector": {"matchLabels": {PART_OF: MESH}}}
    clients = {"namespaceSelector": {"matchLabels": {CLIENTS: "true"}}}
    return [
        named(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "mesh",
            spec={
                "podSelector": {"matchLabels": {PART_OF: MESH}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [of_mesh]}],
                "egress": [{"to": everywhere}],
            },
        ),
        named(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            front,
            spec={
                "podSelector": {"matchLabels": labels(front)},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [clients], "ports": [{"protocol": "TCP", "port": PORT}]}],
            },
        ),
    ]


def asking_route(url: str, count: int) -> Document:
    """KEDA's trigger that asks a route of the mesh for a number of tasks."""
    return {
        "type": "metrics-api",
        "metadata": {"url": url, "valueLocation": "value", "targetValue": str(count), "authMode": "bearer"},
        "authenticationRef": {"name": "mesh-scale"},
    }


def asking_view(count: int) -> Document:
    """KEDA's trigger that asks the database for the number of all tasks, at the address that pods have."""
    query = "SELECT value FROM meshwright_scale WHERE app = 'mesh'"
    metadata = {"connectionFromEnv": "MESH_DATABASE", "query": query, "targetQueryValue": str(count)}
    return {"type": "postgresql", "metadata": metadata}


def scaled(app: Pods, trigger: Document, most: int) -> Document:
    """KEDA's object that gives an app as many replicas as a trigger says, `most` at most."""
    spec = {
        "scaleTargetRef": {"kind": app.kind, "name": app.name},
        "minReplicaCount": 1,
        "maxReplicaCount": most,
        "triggers": [trigger],
    }
    return named("keda.sh/v1alpha1", "ScaledObject", app.name, spec=spec)


def scale_key() -> Document:
    """KEDA's reference to the key with which it asks the mesh."""
    spec = {"secretTargetRef": [{"parameter": "token", "name": "mesh-scale", "key": "key"}]}
    return named("keda.sh/v1alpha1", "TriggerAuthentication", "mesh-scale", spec=spec)
