"""Tools that change Kubernetes clusters: each needs an approval, shows its effect, and has a precondition.

A call that is repeated changes nothing a second time: it finds its own change.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.tools.tool import Unchanged, tool
from meshwright.toolsets.kube import (
    FILE,
    JSON,
    NO_CHANGE,
    Cluster,
    KindName,
    KubeReadTools,
    Manifest,
    Name,
    Namespace,
    facts_of,
    label_of,
)
from meshwright.toolsets.kube_objects import hidden_difference, items_of
from meshwright.toolsets.kubectl import Kind

_Uid = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", max_length=64)]
_Replicas = Annotated[int, Field(ge=0, le=10_000)]
_Number = Annotated[int, Field(ge=1, le=1_000_000_000)]
_SCALED = ("deployments.apps", "statefulsets.apps", "replicasets.apps")
_ROLLED = ("deployments.apps", "statefulsets.apps", "daemonsets.apps")
_RESTARTED, _UNDONE = "meshwright/restarted", "meshwright/undone"
_REVISION = "deployment.kubernetes.io/revision"
_GONE = "(NotFound)"


class KubeTools(KubeReadTools):
    """Reads and changes what a table [kube.NAME] allows of clusters; a person approves each change."""

    @tool(idempotent=True, effect="change", origin="workspace", needs_approval=True, preview="_preview_apply")
    async def kube_apply(
        self, manifest: Manifest, take_over: bool = False, cluster: Cluster = ""
    ) -> list[dict[str, Any]]:
        """Apply a manifest. The cluster refuses it where another manager owns a field that it changes.

        Args:
            manifest: YAML or JSON, at most 20 objects with --- between them; only the fields that matter
            take_over: take such fields over, if the approver agrees
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster = self.kubectl.cluster(cluster)
        objects = await self.objects_of(cluster, manifest)
        answer = await self.applied(cluster, objects, take_over=take_over)
        return [facts_of(item) for item in items_of(answer)]

    async def _preview_apply(
        self, manifest: str, take_over: bool = False, cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster = self.kubectl.cluster(cluster)
        objects = await self.objects_of(cluster, manifest)
        known = {"cluster": cluster, "cluster_id": await self.kubectl.identity(cluster)}
        effect = {**known, **await self.effect_of(cluster, objects, take_over=take_over)}
        return Unchanged(effect) if effect["diff"] == NO_CHANGE and "takes_over" not in effect else effect

    @tool(
        idempotent=True, effect="change", origin="workspace", needs_approval=True, preview="_preview_delete"
    )
    async def kube_delete(
        self, kind: KindName, name: Name, uid: _Uid, namespace: Namespace = "", cluster: Cluster = ""
    ) -> str:
        """Delete an object, and with it what belongs to it.

        Args:
            kind: such as pod or deployment
            name: the object
            uid: its metadata.uid, so that no other of the same name is deleted
            namespace: where it is; not needed where only one is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster, meant, namespace = await self._target(kind, namespace, cluster)
        base = f"/apis/{meant.api_version}" if meant.group else f"/api/{meant.api_version}"
        path = f"{base}/namespaces/{namespace}/{meant.plural}/{name}"
        conditions = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", **conditions}
        try:
            await self.kubectl.with_file(cluster, options, "delete", f"--raw={path}", FILE)
        except ToolFailed as error:
            if _GONE not in error.message:
                raise
            return f"{meant.name} {namespace}/{name} is gone already"
        return f"{meant.name} {namespace}/{name} is deleted"

    async def _preview_delete(
        self, kind: str, name: str, uid: str, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, meant, namespace = await self._target(kind, namespace, cluster)
        try:
            found = await self.one(cluster, meant, name, namespace)
        except ToolFailed as error:
            if _GONE not in error.message:
                raise
            return Unchanged(f"{meant.name} {namespace}/{name} is gone already")
        if found["metadata"].get("uid") != uid:
            raise _other(found, "uid", uid)
        metadata = {
            key: found["metadata"].get(key) for key in ("labels", "creationTimestamp", "ownerReferences")
        }
        return {"cluster": cluster, "deletes": label_of(found), "uid": uid, **metadata}

    @tool(idempotent=True, effect="change", needs_approval=True, preview="_preview_scale")
    async def kube_scale(
        self,
        kind: KindName,
        name: Name,
        replicas: _Replicas,
        was: _Replicas,
        namespace: Namespace = "",
        cluster: Cluster = "",
    ) -> dict[str, Any]:
        """Set how many pods a workload has.

        Args:
            kind: deployment, statefulset or replicaset
            name: the workload
            replicas: how many it shall have
            was: how many it has now (spec.replicas): where that is not so, nothing is changed
            namespace: where it is; not needed where only one is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster, meant, namespace = await self._target(kind, namespace, cluster, _SCALED)
        found = await self.one(cluster, meant, name, namespace)
        if _checked_replicas(found, replicas, was) == replicas:
            return facts_of(found)
        operations = [_test("/spec/replicas", was), _replace("/spec/replicas", replicas)]
        return await self._patch(cluster, meant, found, operations)

    async def _preview_scale(
        self, kind: str, name: str, replicas: int, was: int, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, meant, namespace = await self._target(kind, namespace, cluster, _SCALED)
        found = await self.one(cluster, meant, name, namespace)
        now = _checked_replicas(found, replicas, was)
        if now == replicas:
            return Unchanged()
        return {
            "cluster": cluster,
            "scales": label_of(found),
            "from": now,
            "to": replicas,
            "uid": _uid(found),
        }

    @tool(idempotent=True, effect="change", needs_approval=True, preview="_preview_restart")
    async def kube_restart(
        self, kind: KindName, name: Name, was: _Number, namespace: Namespace = "", cluster: Cluster = ""
    ) -> dict[str, Any]:
        """Replace all pods of a workload, one after another as it allows.

        Args:
            kind: deployment, statefulset or daemonset
            name: the workload
            was: its metadata.generation now: where it was changed since, nothing is done
            namespace: where it is; not needed where only one is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster, meant, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        found = await self.one(cluster, meant, name, namespace)
        marks = _annotations(found["spec"]["template"])
        if marks.get(_RESTARTED) == str(was):
            return facts_of(found)
        _check_generation(found, was)
        marked = {**marks, _RESTARTED: str(was)}
        metadata = {**(found["spec"]["template"].get("metadata") or {}), "annotations": marked}
        return await self._patch(cluster, meant, found, [_add("/spec/template/metadata", metadata)], was)

    async def _preview_restart(
        self, kind: str, name: str, was: int, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, meant, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        found = await self.one(cluster, meant, name, namespace)
        if _annotations(found["spec"]["template"]).get(_RESTARTED) == str(was):
            return Unchanged()
        _check_generation(found, was)
        replicas = found["spec"].get("replicas")
        return {"cluster": cluster, "restarts": label_of(found), "pods": replicas, "uid": _uid(found)}

    @tool(idempotent=True, effect="change", needs_approval=True, preview="_preview_undo")
    async def kube_undo(
        self,
        kind: KindName,
        name: Name,
        to_revision: _Number,
        was: _Number,
        namespace: Namespace = "",
        cluster: Cluster = "",
    ) -> dict[str, Any]:
        """Roll a workload back to the template of an earlier revision.

        Args:
            kind: deployment, statefulset or daemonset
            name: the workload
            to_revision: a number of its history, as kube_rollout_status shows it
            was: its metadata.generation now: where it was changed since, nothing is done
            namespace: where it is; not needed where only one is allowed
            cluster: a context of the kubeconfig; by default the usual one
        """
        cluster, meant, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        found = await self.one(cluster, meant, name, namespace)
        marks, mark = _annotations(found), _undone(was, to_revision)
        if marks.get(_UNDONE) == mark:
            return facts_of(found)
        _check_generation(found, was)
        template = await self._template(cluster, meant, found, to_revision)
        operations = [
            _replace("/spec/template", template),
            _add("/metadata/annotations", {**marks, _UNDONE: mark}),
        ]
        return await self._patch(cluster, meant, found, operations, was)

    async def _preview_undo(
        self, kind: str, name: str, to_revision: int, was: int, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, meant, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        found = await self.one(cluster, meant, name, namespace)
        if _annotations(found).get(_UNDONE) == _undone(was, to_revision):
            return Unchanged()
        _check_generation(found, was)
        template = await self._template(cluster, meant, found, to_revision)
        diff = hidden_difference(label_of(found), found["spec"]["template"], template)
        return {"cluster": cluster, "diff": diff or "no change", "uid": _uid(found)}

    async def _target(
        self, kind: str, namespace: str, cluster: str, kinds: tuple[str, ...] = ()
    ) -> tuple[str, Kind, str]:
        """The cluster, kind and namespace of a change. Raises InvalidInput where it is not allowed."""
        cluster = self.kubectl.cluster(cluster)
        meant = self.kubectl.changeable(await self.kubectl.kind(cluster, kind))
        if kinds and meant.key not in kinds:
            remedy = f"It works for {', '.join(kinds)}"
            raise InvalidInput(f"This cannot be done to {meant.key}", remedy=remedy, field="kind")
        return cluster, meant, self.kubectl.namespace(namespace)

    async def _template(
        self, cluster: str, kind: Kind, found: dict[str, Any], revision: int
    ) -> dict[str, Any]:
        """The template of pods that a workload had in a revision. Raises ToolFailed where it has no such."""
        is_deployment = kind.key == "deployments.apps"
        source = "replicasets.apps" if is_deployment else "controllerrevisions.apps"
        namespace = f"--namespace={found['metadata']['namespace']}"
        owned = [
            item
            for item in items_of(await self.kubectl.data(cluster, "get", source, namespace, JSON))
            if any(owner.get("uid") == _uid(found) for owner in item["metadata"].get("ownerReferences", ()))
        ]
        for item in owned:
            number = _annotations(item).get(_REVISION) if is_deployment else str(item.get("revision"))
            if number == str(revision):
                spec = item["spec"] if is_deployment else item["data"]["spec"]
                template = json.loads(json.dumps(spec["template"]))
                template.pop("$patch", None)
                template.get("metadata", {}).get("labels", {}).pop("pod-template-hash", None)
                return template
        raise ToolFailed(
            f"{label_of(found)} has no revision {revision}", remedy="kube_rollout_status lists them"
        )

    async def _patch(
        self,
        cluster: str,
        kind: Kind,
        found: dict[str, Any],
        operations: list[dict[str, Any]],
        generation: int | None = None,
    ) -> dict[str, Any]:
        """Change an object, if it is still the one that was found, and of the generation."""
        tests = [_test("/metadata/uid", _uid(found))]
        if generation is not None:
            tests.append(_test("/metadata/generation", generation))
        metadata = found["metadata"]
        target = (kind.argument, metadata["name"], f"--namespace={metadata['namespace']}")
        flags = ("--type=json", "--field-manager=meshwright", JSON, "--patch-file=")
        patch = [*tests, *operations]
        return facts_of(await self.kubectl.with_file(cluster, patch, "patch", *target, *flags))


def _undone(was: int, revision: int) -> str:
    """The mark of a workload that was rolled back."""
    return f"{was} to revision {revision}"


def _test(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def _annotations(found: dict[str, Any]) -> dict[str, str]:
    return (found.get("metadata") or {}).get("annotations") or {}


def _uid(found: dict[str, Any]) -> str:
    return found["metadata"]["uid"]


def _checked_replicas(found: dict[str, Any], replicas: int, was: int) -> int:
    """The number of replicas now. Raises ToolFailed where it is neither of the two."""
    now = found["spec"].get("replicas", 1)
    if now not in (replicas, was):
        raise _other(found, "number of replicas", was, now)
    return now


def _check_generation(found: dict[str, Any], was: int) -> None:
    now = found["metadata"].get("generation")
    if now != was:
        raise _other(found, "generation", was, now)


def _other(found: dict[str, Any], field: str, was: Any, now: Any = None) -> ToolFailed:
    has = "" if now is None else f", it is {now!r}"
    return ToolFailed(
        f"{label_of(found)} does not have the {field} {was!r}{has}",
        remedy="Look again: it has changed meanwhile",
    )
