"""kubectl as a program, and objects of Kubernetes as data.

The program reaches the clusters, namespaces and kinds that settings allow, and nothing else: every argument
that a model may choose is a value of a flag, or a name that a pattern has checked; kubectl gets a kubeconfig
of its own, an empty home folder, and of the environment only what the settings name. Objects are read from
manifests as models write them; their secrets are hidden, also in differences.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from meshwright.agents.sandbox.process import run
from meshwright.core.errors import InvalidInput, ToolFailed, nearest
from meshwright.core.folders import remove_folder
from meshwright.core.redaction import NAMES_A_SECRET
from meshwright.toolsets.settings import KubeSettings
from meshwright.toolsets.yaml_text import Unreadable, read_yaml

_TABLE = "its table [kube.NAME] of mesh.toml"
_REMEDY = "Write a table [kube.default] with kubeconfig, contexts and namespaces in mesh.toml"
_MAX_OUTPUT_BYTES = 4_000_000
ANY = "*"
_ResultT = TypeVar("_ResultT")
HIDDEN, _NEW = "[hidden]", "[hidden, new]"
_BY_THE_SERVER = "[set by the server]"
_MAX_OBJECTS = 20
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_VOLATILE = ("creationTimestamp", "generation", "resourceVersion", "selfLink", "uid")
"""Fields of metadata that the cluster sets."""


class ResourceKind(NamedTuple):
    """A kind of objects as its cluster names it: `deployments`, `apps/v1`, `Deployment`."""

    plural: str
    api_version: str
    name: str
    is_namespaced: bool
    short_names: frozenset[str]

    @property
    def group(self) -> str:
        """The API group; none of what is in the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def key(self) -> str:
        """The kind as settings name it: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def argument(self) -> str:
        """The kind as kubectl takes it, with its version."""
        version = self.api_version.rpartition("/")[2]
        return f"{self.plural}.{version}.{self.group}" if self.group else self.plural

    def is_meant(self, name: str) -> bool:
        """Whether a name, in lower case, is one of its names."""
        plural, _, group = name.partition(".")
        version = self.api_version.rpartition("/")[2]
        groups = {"", self.group, version, f"{version}.{self.group}"}
        return plural in {self.plural, self.name.lower(), *self.short_names} and group in groups


class Kubectl:
    """Runs kubectl against the clusters of the settings. Raises ToolFailed with what it complains of."""

    def __init__(self, settings: KubeSettings) -> None:
        self.settings = settings
        self._home: Path | None = None
        self._kinds: dict[str, list[ResourceKind]] = {}

    def close(self) -> None:
        """Remove its home folder, which holds what it knows of the clusters' APIs."""
        home, self._home = self._home, None
        if home is not None:
            with suppress(OSError):
                remove_folder(home)

    def cluster(self, name: str) -> str:
        """The context that is meant; by default the first of the settings. Raises InvalidInput."""
        allowed = self.settings.contexts
        if not self.settings.allows_any:
            raise ToolFailed("No cluster is set up for these tools", remedy=_REMEDY)
        if name and name not in allowed:
            remedy = f"Allowed are {', '.join(allowed)}"
            raise InvalidInput(f"The cluster {name!r} is not allowed", remedy=remedy, field="cluster")
        return name or allowed[0]

    def namespace(self, name: str) -> str:
        """The one namespace that is meant. Raises InvalidInput where it is not allowed, or not clear."""
        allowed = self.settings.namespaces
        if not name and (len(allowed) != 1 or ANY in allowed):
            raise InvalidInput("No namespace is named", remedy=self._allowed(), field="namespace")
        if name and name not in allowed and ANY not in allowed:
            raise InvalidInput(
                f"The namespace {name!r} is not allowed", remedy=self._allowed(), field="namespace"
            )
        return name or allowed[0]

    def scopes(self, kind: ResourceKind, namespace: str) -> list[str]:
        """The flags of a list, one for each call: of a namespace, or of all that are allowed."""
        if not kind.is_namespaced:
            return [""]
        if namespace:
            return [f"--namespace={self.namespace(namespace)}"]
        if ANY in self.settings.namespaces:
            return ["--all-namespaces"]
        return [f"--namespace={name}" for name in self.settings.namespaces]

    def _allowed(self) -> str:
        allowed = self.settings.namespaces
        return "Name one of the cluster" if ANY in allowed else f"Allowed are {', '.join(allowed)}"

    async def kind(self, cluster: str, name: str, *, api_version: str | None = None) -> ResourceKind:
        """The kind that a name means: `pods`, `Pod`, `po`, `deployments.apps`. Raises InvalidInput.

        Kinds outside of namespaces are refused unless the settings allow to read them.
        """
        for is_fresh in (False, True):
            if is_fresh or cluster not in self._kinds:
                self._kinds[cluster] = await self._api_resources(cluster)
            kinds = self._kinds[cluster]
            matches = [kind for kind in kinds if kind.is_meant(name.lower())]
            if api_version is not None:
                group = api_version.rpartition("/")[0]
                matches = [kind for kind in kinds if kind.name == name and kind.group == group]
            if matches:
                return self._readable(matches[0])
        close = nearest(name.lower(), [kind.plural for kind in kinds])
        remedy = f"Did you mean {close!r}?" if close else "Name it as `kubectl api-resources` does"
        raise InvalidInput(f"The cluster has no kind {name!r}", remedy=remedy, field="kind")

    def _readable(self, kind: ResourceKind) -> ResourceKind:
        if not kind.is_namespaced and kind.key not in self.settings.cluster_kinds:
            remedy = f"Only a person can add it to cluster_kinds in {_TABLE}"
            raise InvalidInput(f"{kind.key} may not be read", remedy=remedy, field="kind")
        return kind

    def changeable(self, kind: ResourceKind) -> ResourceKind:
        """The kind. Raises InvalidInput where agents may not change it."""
        if kind.key not in self.settings.change_kinds or not kind.is_namespaced or kind.key == "secrets":
            remedy = f"Only a person can change it, or add it to change_kinds in {_TABLE}"
            raise InvalidInput(f"{kind.key} may not be changed", remedy=remedy, field="kind")
        return kind

    async def _api_resources(self, cluster: str) -> list[ResourceKind]:
        text = await self.text(cluster, "api-resources", "--no-headers=true")
        kinds = []
        for line in text.splitlines():
            # Short names are missing in most lines, and so are counted from the end.
            match line.split():
                case [plural, *short, api_version, ("true" | "false") as is_namespaced, name]:
                    names = frozenset(",".join(short).split(",")) - {""}
                    kinds.append(ResourceKind(plural, api_version, name, is_namespaced == "true", names))
        return kinds

    async def version(self, cluster: str) -> str:
        """The version of the API server."""
        answer = await self.data(cluster, "version", "--output=json")
        return str(answer.get("serverVersion", {}).get("gitVersion", "of no known version"))

    async def identity(self, cluster: str) -> str:
        """The uid of a cluster, that of its namespace kube-system; its address where that may not be read."""
        try:
            namespace = await self.data(cluster, "get", "namespaces", "kube-system", "--output=json")
            return str(namespace["metadata"]["uid"])
        except ToolFailed as error:
            if not any(reason in error.message for reason in ("(Forbidden)", "(NotFound)")):
                raise
        view = await self.data(cluster, "config", "view", "--minify", "--output=json")
        return str(view["clusters"][0]["cluster"]["server"])

    async def text(self, cluster: str, *arguments: str) -> str:
        """The output of a call; of more than four megabytes the beginning, with a line that says so."""
        output, is_cut = await self._call(cluster, arguments)
        return f"{output}\n[cut: there is more; ask for less]" if is_cut else output

    async def data(self, cluster: str, *arguments: str) -> dict[str, Any]:
        """The JSON output of a call, an object; an empty one where there is no output."""
        output, is_cut = await self._call(cluster, arguments)
        if is_cut:
            raise ToolFailed("kubectl answers with more than four megabytes", remedy="Ask for less")
        return json.loads(output) if output.strip() else {}

    async def with_file(self, cluster: str, content: Any, *arguments: str) -> dict[str, Any]:
        """The JSON output of a call that reads JSON from a file, whose name its last argument ends with."""
        *first, last = arguments
        with tempfile.NamedTemporaryFile(dir=self._folder(), suffix=".json") as file:
            file.write(json.dumps(content).encode())
            file.flush()
            return await self.data(cluster, *first, f"{last}{file.name}")

    def _folder(self) -> Path:
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="mesh-kube-"))
        return self._home

    async def _call(self, cluster: str, arguments: Sequence[str]) -> tuple[str, bool]:
        home, settings = self._folder(), self.settings
        variables = {name: os.environ[name] for name in settings.environment if name in os.environ}
        own = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "KUBERC": "off"}
        finished = await run(
            [
                settings.program,
                f"--kubeconfig={settings.kubeconfig}",
                f"--context={cluster}",
                f"--cache-dir={home / 'cache'}",
                f"--request-timeout={settings.timeout_seconds:g}s",  # it outlives a mesh that is killed
                *filter(None, arguments),
            ],
            folder=home,
            environment=own | variables,
            timeout_seconds=settings.timeout_seconds,
            max_output_bytes=_MAX_OUTPUT_BYTES,
        )
        if finished.status and not finished.is_killed:
            complaint = finished.errors.replace(f"{home}/", "").strip()
            complaint = complaint or f"it ended with the status {finished.status}"
            raise ToolFailed(f"kubectl {arguments[0]} failed: {complaint}")
        return finished.output, finished.is_cut


async def gather_all(*calls: Awaitable[_ResultT]) -> list[_ResultT]:
    """The results of calls side by side, in order. All have ended when it raises the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def read_manifest(text: str) -> list[dict[str, Any]]:
    """The objects of a manifest, YAML or JSON, one document each. Raises InvalidInput.

    They are handed on as JSON, so that no second reader can understand the text in another way.
    """
    try:
        documents = [document for document in read_yaml(text) if document is not None]
    except Unreadable as error:
        raise _wrong(f"cannot be read: {error}", "Write YAML, or JSON") from error
    if not 1 <= len(documents) <= _MAX_OBJECTS:
        raise _wrong(f"has {len(documents)} objects", f"Write 1 to {_MAX_OBJECTS}, with --- between them")
    if any(mark in text for mark in (HIDDEN, _NEW, _BY_THE_SERVER)):
        raise _wrong("has a text in place of a value", "Leave out what you were not shown")
    return [_checked(document) for document in documents]


def _checked(document: Any) -> dict[str, Any]:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict):
        raise _wrong("has a document that is no object", "Give each apiVersion, kind and metadata")
    identity = (document.get("apiVersion"), document.get("kind"), metadata.get("name"))
    if not all(isinstance(value, str) and value for value in identity):
        remedy = "Give each apiVersion, kind and metadata.name"
        raise _wrong("has an object without a name, a kind or an apiVersion", remedy)
    if not isinstance(metadata.get("namespace", ""), str):
        raise _wrong("has a namespace that is no text", "Name one that is allowed")
    try:
        return json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(f"holds what JSON does not: {error}", "Write texts, numbers, lists, objects") from error


def _wrong(problem: str, remedy: str) -> InvalidInput:
    return InvalidInput(f"The manifest {problem}", remedy=remedy, field="manifest")


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """An object, or a list of them, without the data of Secrets and the server's bookkeeping."""
    if isinstance(document.get("items"), list):
        return {**document, "items": [shown(item) for item in document["items"]]}
    metadata = {name: value for name, value in _metadata(document).items() if name != "managedFields"}
    if annotations := metadata.get("annotations"):
        others = {name: value for name, value in annotations.items() if name != _LAST_APPLIED}
        metadata["annotations"] = others
    secret: dict[str, Any] = {}
    if document.get("kind") == "Secret":
        secret = {
            key: dict.fromkeys(document[key], HIDDEN) for key in ("data", "stringData") if document.get(key)
        }
    return {**document, "metadata": metadata, **secret}


def with_secrets(value: Any, text: Callable[[str], str]) -> Any:
    """Data in which each variable of a container that is named like a secret has the `text` of its value."""
    if isinstance(value, list):
        return [with_secrets(item, text) for item in value]
    if not isinstance(value, Mapping):
        return value
    name, secret = value.get("name"), value.get("value")
    is_secret = isinstance(name, str) and isinstance(secret, str) and NAMES_A_SECRET.search(name)
    inner = {key: with_secrets(field, text) for key, field in value.items()}
    return {**inner, "value": text(secret)} if is_secret and secret else inner


def hidden_difference(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """The difference of two states without their secrets; of those in `after` it says which are new."""
    secrets: set[str] = set()

    def hide_secret(secret: str) -> str:
        secrets.add(secret)
        return HIDDEN

    shown_before = with_secrets(before, hide_secret)
    return difference(name, shown_before, with_secrets(after, lambda it: HIDDEN if it in secrets else _NEW))


def wanted_state(document: Mapping[str, Any]) -> dict[str, Any]:
    """An object without its status, and without what the server counts and names."""
    whole = shown(document)
    metadata = {name: value for name, value in whole["metadata"].items() if name not in _VOLATILE}
    return {**{name: value for name, value in whole.items() if name != "status"}, "metadata": metadata}


def steady(first: Any, second: Any) -> Any:
    """The common part of two answers to one question: values that the server makes anew are marked."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {name: steady(value, second.get(name)) for name, value in first.items()}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [steady(*pair) for pair in zip(first, second, strict=True)]
    return first if first == second else _BY_THE_SERVER


def difference(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """A unified diff of two states of an object, as YAML; empty where they are the same."""
    lines = difflib.unified_diff(
        _lines(before), _lines(after), f"{name} (now)", f"{name} (then)", lineterm="", n=4
    )
    return "\n".join(lines)


def _lines(state: Mapping[str, Any] | None) -> list[str]:
    import yaml

    return yaml.safe_dump(dict(state), width=10_000).splitlines() if state else []


def digest(state: Mapping[str, Any] | None) -> str:
    """A short hash of a state; that of an object that is not there is `none`."""
    text = json.dumps(state, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16] if state else "none"


def object_list(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Objects as one, as kubectl reads them from a file."""
    return {"apiVersion": "v1", "kind": "List", "items": objects}


def list_items(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of an answer: those of a list, or the one that it is."""
    if not answer:
        return []
    items = answer.get("items")
    return list(items) if isinstance(items, list) else [dict(answer)]


def object_place(document: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The group, kind, namespace and name of an object, which tell it from every other."""
    metadata = _metadata(document)
    group = str(document.get("apiVersion", "")).rpartition("/")[0]
    return group, str(document.get("kind")), str(metadata.get("namespace", "")), str(metadata.get("name"))


def by_place(documents: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """Objects by what tells them apart."""
    return {object_place(item): item for item in documents}


def _metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    return dict(document.get("metadata") or {})
