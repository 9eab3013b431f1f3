"""kubectl as a program: the clusters, namespaces and kinds that settings allow, and nothing else.

Every argument that a model may choose is a value of a flag, or a name that a pattern has checked; kubectl
gets a kubeconfig of its own, an empty home folder, and of the environment only what the settings name.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from meshwright.core.errors import InvalidInput, ToolFailed, nearest
from meshwright.sandbox.process import run
from meshwright.toolsets.settings import KubeSettings

_TABLE = "its table [kube.NAME] of mesh.toml"
_REMEDY = "Write a table [kube.default] with kubeconfig, contexts and namespaces in mesh.toml"
_MAX_OUTPUT_BYTES = 4_000_000
ANY = "*"
_ResultT = TypeVar("_ResultT")


class Kind(NamedTuple):
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
        self._kinds: dict[str, list[Kind]] = {}

    def close(self) -> None:
        """Remove its home folder, which holds what it knows of the clusters' APIs."""
        home, self._home = self._home, None
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)

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

    def scopes(self, kind: Kind, namespace: str) -> list[str]:
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

    async def kind(self, cluster: str, name: str, *, api_version: str | None = None) -> Kind:
        """The kind that a name means: `pods`, `Pod`, `po`, `deployments.apps`. Raises InvalidInput.

        Kinds outside of namespaces are refused unless the settings allow to read them.
        """
        for is_fresh in (False, True):
            if is_fresh or cluster not in self._kinds:
                self._kinds[cluster] = await self._api_resources(cluster)
            kinds = self._kinds[cluster]
            found = [kind for kind in kinds if kind.is_meant(name.lower())]
            if api_version is not None:
                group = api_version.rpartition("/")[0]
                found = [kind for kind in kinds if kind.name == name and kind.group == group]
            if found:
                return self._readable(found[0])
        close = nearest(name.lower(), [kind.plural for kind in kinds])
        remedy = f"Did you mean {close!r}?" if close else "Name it as `kubectl api-resources` does"
        raise InvalidInput(f"The cluster has no kind {name!r}", remedy=remedy, field="kind")

    def _readable(self, kind: Kind) -> Kind:
        if not kind.is_namespaced and kind.key not in self.settings.cluster_kinds:
            remedy = f"Only a person can add it to cluster_kinds in {_TABLE}"
            raise InvalidInput(f"{kind.key} may not be read", remedy=remedy, field="kind")
        return kind

    def changeable(self, kind: Kind) -> Kind:
        """The kind. Raises InvalidInput where agents may not change it."""
        if kind.key not in self.settings.change_kinds or not kind.is_namespaced or kind.key == "secrets":
            remedy = f"Only a person can change it, or add it to change_kinds in {_TABLE}"
            raise InvalidInput(f"{kind.key} may not be changed", remedy=remedy, field="kind")
        return kind

    async def _api_resources(self, cluster: str) -> list[Kind]:
        text = await self.text(cluster, "api-resources", "--no-headers=true")
        kinds = []
        for line in text.splitlines():
            # Short names are missing in most lines, and so are counted from the end.
            match line.split():
                case [plural, *short, api_version, ("true" | "false") as is_namespaced, name]:
                    names = frozenset(",".join(short).split(",")) - {""}
                    kinds.append(Kind(plural, api_version, name, is_namespaced == "true", names))
        return kinds

    async def version(self, cluster: str) -> str:
        """The version of the API server."""
        answer = await self.data(cluster, "version", "--output=json")
        return str(answer.get("serverVersion", {}).get("gitVersion", "of no known version"))

    async def identity(self, cluster: str) -> str:
        """The uid of a cluster, that of its namespace kube-system; its address where that may not be read."""
        try:
            found = await self.data(cluster, "get", "namespaces", "kube-system", "--output=json")
            return str(found["metadata"]["uid"])
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
        passed = {name: os.environ[name] for name in settings.environment if name in os.environ}
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
            environment=own | passed,
            timeout_seconds=settings.timeout_seconds,
            max_output_bytes=_MAX_OUTPUT_BYTES,
        )
        if finished.status and not finished.is_killed:
            complaint = finished.errors.replace(f"{home}/", "").strip()
            complaint = complaint or f"it ended with the status {finished.status}"
            raise ToolFailed(f"kubectl {arguments[0]} failed: {complaint}")
        return finished.output, finished.is_cut


async def all_of(*calls: Awaitable[_ResultT]) -> list[_ResultT]:
    """The results of calls side by side, in order. All have ended when it raises the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
