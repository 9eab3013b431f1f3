"""Tools that look into Kubernetes clusters, through kubectl: objects, logs, events, usage, differences.

Contexts, namespaces and kinds are those that the settings allow. The data of Secrets is never shown; there
is no exec, cp, port-forward or raw request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from meshwright.agents.tools.tool import Tool, ToolContext, tool
from meshwright.agents.tools.toolset import Toolset, ToolSettings
from meshwright.core.clock import parse_duration
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.toolsets.kubectl import (
    Kubectl,
    ResourceKind,
    by_place,
    digest,
    gather_all,
    hidden_difference,
    list_items,
    object_list,
    object_place,
    read_manifest,
    shown,
    steady,
    wanted_state,
    with_secrets,
)
from meshwright.toolsets.settings import KubeSettings

# None begins with a dash, and none has a slash, a comma or a space: each is one name, and no flag.
KindName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9.-]*$", max_length=253)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
Namespace = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$", max_length=63)]
Cluster = Annotated[str, Field(max_length=253)]
Manifest = Annotated[str, Field(min_length=1, max_length=60_000)]
_MaybeName = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", max_length=253)]
_Selector = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./=!,() -]*$", max_length=1_000)]
_MAX_EVENTS = 100
_MAX_CHARS = 8_000  # of a result; the rest is in its output
_MAX_MESSAGE_CHARS = 500
JSON = "--output=json"
_APPLY = ("apply", "--server-side", "--field-manager=meshwright", "--validate=strict", JSON)
FILE = "--filename="
NO_CHANGE = "no change"


class KubeReadTools(Toolset):
    """Reads what a table [kube.NAME] allows of Kubernetes clusters."""

    kind = "kube"
    config_type: ClassVar[type[BaseModel] | None] = KubeSettings

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self.kubectl = Kubectl(self.config)

    async def tools(self) -> Sequence[Tool]:
        """The tools; none while the settings allow no cluster."""
        return await super().tools() if self.config.allows_any else []

    @property
    def lack(self) -> str:
        """The settings, where they allow no cluster."""
        place = f"[kube.{self.table or 'default'}] of mesh.toml"
        return "" if self.config.allows_any else f"{place} does not set kubeconfig, contexts and namespaces"

    async def check(self) -> str:
        """The version of each cluster. Raises ToolFailed for one that does not answer."""
        versions = [f"{name}: {await self.kubectl.version(name)}" for name in self.config.contexts]
        return ", ".join(versions) if self.config.allows_any else "no cluster is set up"

    async def close(self) -> None:
        """Remove what kubectl has cached."""
        self.kubectl.close()

    @tool(idempotent=True, effect="read", origin="workspace", max_chars=_MAX_CHARS)
    async def kube_get(
        self,
        kind: KindName,
        context: ToolContext,
        name: _MaybeName = "",
        namespace: Namespace = "",
        selector: _Selector = "",
        cluster: Cluster = "",
    ) -> str | dict[str, Any]:
        """Show one object as data, or without a name the table of a kind.

        Args:
            kind: such as pods, deployments, ingresses; with its group where it is not clear
            name: the object; empty lists all of them
            namespace: empty lists those of every namespace that is allowed
            selector: labels that a list is limited to, such as app=shop,tier!=web
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        resource = await self.kubectl.kind(cluster, kind)
        if name:
            document = shown(await self.one(cluster, resource, name, namespace))
            return with_secrets(document, lambda secret: context.mask(secret))
        labels = f"--selector={selector}" if selector else ""
        scopes = self.kubectl.scopes(resource, namespace)
        calls = (
            self.kubectl.text(cluster, "get", resource.argument, scope, labels, "--output=wide")
            for scope in scopes
        )
        tables = await gather_all(*calls)
        pairs = zip(scopes, tables, strict=True)
        titled = (f"{scope.removeprefix('--')}\n{table or 'none'}" for scope, table in pairs)
        return "\n".join(titled).strip()

    @tool(idempotent=True, effect="read", origin="outside", max_chars=_MAX_CHARS)
    async def kube_describe(
        self, kind: KindName, name: Name, namespace: Namespace = "", cluster: Cluster = ""
    ) -> str:
        """Describe an object, with its state and its latest events.

        Args:
            kind: such as pod, deployment, node
            name: the object
            namespace: where it is; not needed where only one is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        resource = await self.kubectl.kind(cluster, kind)
        if resource.key == "secrets":  # of some, kubectl describes the token
            raise InvalidInput("Secrets are not described", remedy="Use kube_get", field="kind")
        where = self._where(resource, namespace)
        return await self.kubectl.text(cluster, "describe", resource.argument, name, where)

    @tool(idempotent=True, effect="read", origin="outside", max_chars=_MAX_CHARS)
    async def kube_logs(
        self,
        pod: Name,
        namespace: Namespace = "",
        container: _MaybeName = "",
        previous: bool = False,
        lines: Annotated[int, Field(ge=1, le=2_000)] = 200,
        cluster: Cluster = "",
    ) -> str:
        """Show the last lines that a container of a pod has logged.

        Args:
            pod: its name
            namespace: where it is; not needed where only one is allowed
            container: which one, where the pod has several
            previous: the log of the container before its last restart
            lines: how many
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        flags = (
            f"--namespace={self.kubectl.namespace(namespace)}",
            f"--container={container}" if container else "",
            "--previous" if previous else "",
            f"--tail={lines}",
            "--timestamps",
        )
        return await self.kubectl.text(cluster, "logs", pod, *flags) or "the log is empty"

    @tool(idempotent=True, effect="read", origin="outside", max_chars=_MAX_CHARS)
    async def kube_events(
        self, namespace: Namespace = "", name: _MaybeName = "", since: str = "1h", cluster: Cluster = ""
    ) -> list[dict[str, Any]]:
        """List the latest events of a cluster, the newest first, 100 at most.

        Args:
            namespace: empty lists those of every namespace that is allowed
            name: only the events of objects of this name
            since: how far back, such as 30m, 24h or 7d
            cluster: a context of the kubeconfig; by default the usual one
        """
        try:
            oldest = datetime.now(UTC) - parse_duration(since)
        except (ValueError, OverflowError) as error:
            raise InvalidInput(str(error), remedy="Write 30m, 24h or 7d", field="since") from error
        cluster = self.kubectl.cluster(cluster)
        kind = await self.kubectl.kind(cluster, "events")
        field = f"--field-selector=involvedObject.name={name}" if name else ""
        answers = await gather_all(
            *(
                self.kubectl.data(cluster, "get", "events", scope, field, JSON)
                for scope in self.kubectl.scopes(kind, namespace)
            )
        )
        events = [_event(item) for answer in answers for item in list_items(answer)]
        recent = [event for event in events if datetime.fromisoformat(event["time"]) >= oldest]
        return sorted(recent, key=lambda event: event["time"], reverse=True)[:_MAX_EVENTS]

    @tool(idempotent=True, effect="read")
    async def kube_top(
        self, kind: Literal["pods", "nodes"] = "pods", namespace: Namespace = "", cluster: Cluster = ""
    ) -> str:
        """Show the processor time and memory that pods or nodes use now, where the cluster measures it.

        Args:
            kind: pods or nodes
            namespace: of pods; empty shows those of every namespace that is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        resource = await self.kubectl.kind(cluster, kind)
        scopes = self.kubectl.scopes(resource, namespace)
        tables = await gather_all(*(self.kubectl.text(cluster, "top", kind, scope) for scope in scopes))
        return "\n".join(tables).strip() or "nothing is measured"

    @tool(idempotent=True, effect="read", origin="workspace")
    async def kube_rollout_status(
        self, kind: KindName, name: Name, namespace: Namespace = "", cluster: Cluster = ""
    ) -> dict[str, Any]:
        """Tell how far the rollout of a workload is, its generation, and its earlier revisions.

        Args:
            kind: deployment, statefulset or daemonset
            name: the workload
            namespace: where it is; not needed where only one is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        resource = await self.kubectl.kind(cluster, kind)
        document = await self.one(cluster, resource, name, namespace)
        where, target = self._where(resource, namespace), f"{resource.argument}/{name}"
        status, history = await gather_all(
            self.kubectl.text(cluster, "rollout", "status", target, where, "--watch=false"),
            self.kubectl.text(cluster, "rollout", "history", target, where),
        )
        return {
            "status": status.strip(),
            "generation": document["metadata"].get("generation"),
            "replicas": document.get("spec", {}).get("replicas"),
            "history": history.strip(),
        }

    @tool(idempotent=True, effect="read", origin="workspace")
    async def kube_diff(self, manifest: Manifest, cluster: Cluster = "") -> str:
        """Show what applying a manifest would change, as the cluster itself computes it; nothing is changed.

        It also names the fields that kube_apply would have to take over from other managers.

        Args:
            manifest: YAML or JSON, at most 20 objects with --- between them
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        effect = await self.apply_effect(
            cluster, await self.manifest_objects(cluster, manifest), take_over=True
        )
        return "\n".join([effect["diff"], *effect.get("takes_over", ())])

    async def manifest_objects(self, cluster: str, manifest: str) -> list[dict[str, Any]]:
        """The objects of a manifest, each in a namespace, and of a kind, that may be changed."""
        objects = await asyncio.to_thread(read_manifest, manifest)
        for document in objects:
            kind = await self.kubectl.kind(cluster, document["kind"], api_version=document["apiVersion"])
            self.kubectl.changeable(kind)
            document["metadata"]["namespace"] = self.kubectl.namespace(
                document["metadata"].get("namespace", "")
            )
        if len({object_place(document) for document in objects}) < len(objects):
            raise InvalidInput("The manifest has an object twice", remedy="Write it once", field="manifest")
        return objects

    async def apply_effect(
        self, cluster: str, objects: list[dict[str, Any]], *, take_over: bool
    ) -> dict[str, Any]:
        """The effect of applying objects: the differences, what each object is now, what is taken over.

        The cluster is asked twice: values that it makes anew each time are no part of the effect.
        """
        live, first, second = await gather_all(
            self.kubectl.with_file(cluster, object_list(objects), "get", "--ignore-not-found", JSON, FILE),
            self.applied(cluster, objects, "--dry-run=server", take_over=take_over),
            self.applied(cluster, objects, "--dry-run=server", take_over=take_over),
        )
        conflicts = await self._conflicts(cluster, objects) if take_over else []
        before, again = by_place(list_items(live)), by_place(list_items(second))
        differences: list[str] = []
        states: dict[str, Any] = {}
        for result in list_items(first):
            place = object_place(result)
            now = before.get(place)
            state = None if now is None else wanted_state(now)
            then = steady(wanted_state(result), wanted_state(again[place]))
            label = object_label(result)
            differences.append(hidden_difference(label, state, then))
            uid = None if now is None else now["metadata"].get("uid")
            states[label] = {"uid": uid, "state": digest(state)}
        effect = {"diff": "\n".join(filter(None, differences)) or NO_CHANGE, "objects": states}
        return {**effect, "takes_over": conflicts} if conflicts else effect

    async def applied(
        self, cluster: str, objects: list[dict[str, Any]], *flags: str, take_over: bool
    ) -> dict[str, Any]:
        """The answer to applying objects. Raises ToolFailed with the fields that other managers own."""
        forced = "--force-conflicts" if take_over else ""
        try:
            return await self.kubectl.with_file(cluster, object_list(objects), *_APPLY, *flags, forced, FILE)
        except ToolFailed as error:
            complaint, advice, _ = error.message.partition("\nPlease review the fields above")
            if not advice:
                raise
            remedy = "Leave these fields out, or set take_over, which the approval then shows"
            raise ToolFailed(complaint, remedy=remedy) from error

    async def _conflicts(self, cluster: str, objects: list[dict[str, Any]]) -> list[str]:
        """The fields that are taken over, below the manager of each."""
        try:
            await self.applied(cluster, objects, "--dry-run=server", take_over=False)
        except ToolFailed as error:
            return error.message.rpartition("error: ")[2].splitlines()
        return []

    async def one(self, cluster: str, kind: ResourceKind, name: str, namespace: str) -> dict[str, Any]:
        """An object. Raises ToolFailed where there is none."""
        where = self._where(kind, namespace)
        return await self.kubectl.data(cluster, "get", kind.argument, name, where, JSON)

    def _where(self, kind: ResourceKind, namespace: str) -> str:
        return f"--namespace={self.kubectl.namespace(namespace)}" if kind.is_namespaced else ""


def object_label(document: Mapping[str, Any]) -> str:
    """An object in words: `Deployment web/shop`."""
    _, kind, namespace, name = object_place(document)
    return f"{kind} {namespace}/{name}"


def object_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The names and numbers by which an object is told from others, and from what it was."""
    metadata = document.get("metadata") or {}
    facts = {name: metadata[name] for name in ("uid", "generation", "resourceVersion") if name in metadata}
    return {"object": object_label(document), **facts}


def _event(item: Mapping[str, Any]) -> dict[str, Any]:
    about = item.get("involvedObject") or {}
    series = item.get("series") or {}
    times = (series.get("lastObservedTime"), item.get("lastTimestamp"), item.get("eventTime"))
    return {
        "time": next(filter(None, times), None) or item["metadata"].get("creationTimestamp"),
        "type": item.get("type"),
        "reason": item.get("reason"),
        "object": f"{about.get('kind')} {about.get('namespace', '')}/{about.get('name')}",
        "message": str(item.get("message", ""))[:_MAX_MESSAGE_CHARS],
        "count": series.get("count") or item.get("count") or 1,
    }
