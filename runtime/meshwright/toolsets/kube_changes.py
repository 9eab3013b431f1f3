"""Tools that change Kubernetes clusters: each needs an approval, shows its effect, and has a precondition.

A call that is repeated changes nothing a second time: it finds its own change.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from meshwright.agents.tools.tool import Unchanged, tool
from meshwright.core.checks import CheckResult
from meshwright.core.errors import InvalidInput, ToolFailed
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
    object_facts,
    object_label,
)
from meshwright.toolsets.kubectl import ResourceKind, hidden_difference, list_items, object_list
from meshwright.toolsets.rest import settled

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

    @tool(
        idempotent=True,
        effect="change",
        origin="workspace",
        needs_approval=True,
        preview="_preview_apply",
        check="_was_applied",
    )
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
        objects = await self.manifest_objects(cluster, manifest)
        answer = await self.applied(cluster, objects, take_over=take_over)
        return [object_facts(item) for item in list_items(answer)]

    async def _preview_apply(
        self, manifest: str, take_over: bool = False, cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster = self.kubectl.cluster(cluster)
        objects = await self.manifest_objects(cluster, manifest)
        cluster_facts = {"cluster": cluster, "cluster_id": await self.kubectl.identity(cluster)}
        effect = {**cluster_facts, **await self.apply_effect(cluster, objects, take_over=take_over)}
        return Unchanged(effect) if effect["diff"] == NO_CHANGE and "takes_over" not in effect else effect

    @tool(
        idempotent=True,
        effect="change",
        origin="workspace",
        needs_approval=True,
        preview="_preview_delete",
        check="_was_deleted",
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
        cluster, resource, namespace = await self._target(kind, namespace, cluster)
        base = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.api_version}"
        path = f"{base}/namespaces/{namespace}/{resource.plural}/{name}"
        conditions = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", **conditions}
        try:
            await self.kubectl.with_file(cluster, options, "delete", f"--raw={path}", FILE)
        except ToolFailed as error:
            if _GONE not in error.message:
                raise
            return f"{resource.name} {namespace}/{name} is gone already"
        return f"{resource.name} {namespace}/{name} is deleted"

    async def _preview_delete(
        self, kind: str, name: str, uid: str, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, resource, namespace = await self._target(kind, namespace, cluster)
        try:
            document = await self.one(cluster, resource, name, namespace)
        except ToolFailed as error:
            if _GONE not in error.message:
                raise
            return Unchanged(f"{resource.name} {namespace}/{name} is gone already")
        if document["metadata"].get("uid") != uid:
            raise _other(document, "uid", uid)
        metadata = {
            key: document["metadata"].get(key) for key in ("labels", "creationTimestamp", "ownerReferences")
        }
        return {"cluster": cluster, "deletes": object_label(document), "uid": uid, **metadata}

    @tool(
        idempotent=True, effect="change", needs_approval=True, preview="_preview_scale", check="_was_scaled"
    )
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
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _SCALED)
        document = await self.one(cluster, resource, name, namespace)
        if _checked_replicas(document, replicas, was) == replicas:
            return object_facts(document)
        operations = [_test("/spec/replicas", was), _replace("/spec/replicas", replicas)]
        return await self._patch(cluster, resource, document, operations)

    async def _preview_scale(
        self, kind: str, name: str, replicas: int, was: int, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _SCALED)
        document = await self.one(cluster, resource, name, namespace)
        now = _checked_replicas(document, replicas, was)
        if now == replicas:
            return Unchanged()
        return {
            "cluster": cluster,
            "scales": object_label(document),
            "from": now,
            "to": replicas,
            "uid": _uid(document),
        }

    @tool(
        idempotent=True,
        effect="change",
        needs_approval=True,
        preview="_preview_restart",
        check="_was_restarted",
    )
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
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        document = await self.one(cluster, resource, name, namespace)
        marks = _annotations(document["spec"]["template"])
        if marks.get(_RESTARTED) == str(was):
            return object_facts(document)
        _check_generation(document, was)
        marked = {**marks, _RESTARTED: str(was)}
        metadata = {**(document["spec"]["template"].get("metadata") or {}), "annotations": marked}
        operations = [_add("/spec/template/metadata", metadata)]
        return await self._patch(cluster, resource, document, operations, was)

    async def _preview_restart(
        self, kind: str, name: str, was: int, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        document = await self.one(cluster, resource, name, namespace)
        if _annotations(document["spec"]["template"]).get(_RESTARTED) == str(was):
            return Unchanged()
        _check_generation(document, was)
        replicas = document["spec"].get("replicas")
        return {
            "cluster": cluster,
            "restarts": object_label(document),
            "pods": replicas,
            "uid": _uid(document),
        }

    @tool(idempotent=True, effect="change", needs_approval=True, preview="_preview_undo", check="_was_undone")
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
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        document = await self.one(cluster, resource, name, namespace)
        marks, mark = _annotations(document), _undone(was, to_revision)
        if marks.get(_UNDONE) == mark:
            return object_facts(document)
        _check_generation(document, was)
        template = await self._template(cluster, resource, document, to_revision)
        operations = [
            _replace("/spec/template", template),
            _add("/metadata/annotations", {**marks, _UNDONE: mark}),
        ]
        return await self._patch(cluster, resource, document, operations, was)

    async def _preview_undo(
        self, kind: str, name: str, to_revision: int, was: int, namespace: str = "", cluster: str = ""
    ) -> dict[str, Any] | Unchanged:
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        document = await self.one(cluster, resource, name, namespace)
        if _annotations(document).get(_UNDONE) == _undone(was, to_revision):
            return Unchanged()
        _check_generation(document, was)
        template = await self._template(cluster, resource, document, to_revision)
        diff = hidden_difference(object_label(document), document["spec"]["template"], template)
        return {"cluster": cluster, "diff": diff or "no change", "uid": _uid(document)}

    async def _was_applied(self, manifest: str, take_over: bool = False, cluster: str = "") -> CheckResult:
        cluster = self.kubectl.cluster(cluster)
        objects = await self.manifest_objects(cluster, manifest)
        effect = await self.apply_effect(cluster, objects, take_over=take_over)
        if effect["diff"] != NO_CHANGE or "takes_over" in effect:
            return CheckResult.unknown(f"Applying it would change the cluster now:\n{effect['diff']}")
        live = await self.kubectl.with_file(cluster, object_list(objects), "get", JSON, FILE)
        facts = [object_facts(item) for item in list_items(live)]
        return CheckResult.happened(facts, "The cluster has all of the manifest.")

    async def _was_deleted(
        self, kind: str, name: str, uid: str, namespace: str = "", cluster: str = ""
    ) -> CheckResult:
        cluster, resource, namespace = await self._target(kind, namespace, cluster)
        label = f"{resource.name} {namespace}/{name}"
        try:
            document = await self.one(cluster, resource, name, namespace)
        except ToolFailed as error:
            if _GONE not in error.message:
                raise
            return CheckResult.happened(f"{label} is deleted", f"There is no {label}.")
        if document["metadata"].get("uid") != uid:
            return CheckResult.happened(f"{label} is deleted", f"{label} is another object by now.")
        return CheckResult.unknown(f"{label} is still there.")

    async def _was_scaled(
        self, kind: str, name: str, replicas: int, namespace: str = "", cluster: str = ""
    ) -> CheckResult:
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _SCALED)
        document = await self.one(cluster, resource, name, namespace)
        now = document["spec"].get("replicas", 1)
        return settled(
            now == replicas, object_facts(document), f"{object_label(document)} has {now} replicas."
        )

    async def _was_restarted(
        self, kind: str, name: str, was: int, namespace: str = "", cluster: str = ""
    ) -> CheckResult:
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        document = await self.one(cluster, resource, name, namespace)
        is_so = _annotations(document["spec"]["template"]).get(_RESTARTED) == str(was)
        return settled(is_so, object_facts(document), _mark_words(document, is_so))

    async def _was_undone(
        self, kind: str, name: str, to_revision: int, was: int, namespace: str = "", cluster: str = ""
    ) -> CheckResult:
        cluster, resource, namespace = await self._target(kind, namespace, cluster, _ROLLED)
        document = await self.one(cluster, resource, name, namespace)
        is_so = _annotations(document).get(_UNDONE) == _undone(was, to_revision)
        return settled(is_so, object_facts(document), _mark_words(document, is_so))

    async def _target(
        self, kind: str, namespace: str, cluster: str, kinds: tuple[str, ...] = ()
    ) -> tuple[str, ResourceKind, str]:
        """The cluster, kind and namespace of a change. Raises InvalidInput where it is not allowed."""
        cluster = self.kubectl.cluster(cluster)
        resource = self.kubectl.changeable(await self.kubectl.kind(cluster, kind))
        if kinds and resource.key not in kinds:
            remedy = f"It works for {', '.join(kinds)}"
            raise InvalidInput(f"This cannot be done to {resource.key}", remedy=remedy, field="kind")
        return cluster, resource, self.kubectl.namespace(namespace)

    async def _template(
        self, cluster: str, kind: ResourceKind, document: dict[str, Any], revision: int
    ) -> dict[str, Any]:
        """The template of pods that a workload had in a revision. Raises ToolFailed where it has no such."""
        is_deployment = kind.key == "deployments.apps"
        source = "replicasets.apps" if is_deployment else "controllerrevisions.apps"
        namespace = f"--namespace={document['metadata']['namespace']}"
        owned = [
            item
            for item in list_items(await self.kubectl.data(cluster, "get", source, namespace, JSON))
            if any(it.get("uid") == _uid(document) for it in item["metadata"].get("ownerReferences", ()))
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
            f"{object_label(document)} has no revision {revision}", remedy="kube_rollout_status lists them"
        )

    async def _patch(
        self,
        cluster: str,
        kind: ResourceKind,
        document: dict[str, Any],
        operations: list[dict[str, Any]],
        generation: int | None = None,
    ) -> dict[str, Any]:
        """Change an object, if it is still the one that was found, and of the generation."""
        tests = [_test("/metadata/uid", _uid(document))]
        if generation is not None:
            tests.append(_test("/metadata/generation", generation))
        metadata = document["metadata"]
        target = (kind.argument, metadata["name"], f"--namespace={metadata['namespace']}")
        flags = ("--type=json", "--field-manager=meshwright", JSON, "--patch-file=")
        patch = [*tests, *operations]
        return object_facts(await self.kubectl.with_file(cluster, patch, "patch", *target, *flags))


def _mark_words(document: dict[str, Any], is_so: bool) -> str:
    return f"{object_label(document)} {'has the mark' if is_so else 'does not have the mark'} of this call."


def _undone(was: int, revision: int) -> str:
    return f"{was} to revision {revision}"


def _test(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    return (document.get("metadata") or {}).get("annotations") or {}


def _uid(document: dict[str, Any]) -> str:
    return document["metadata"]["uid"]


def _checked_replicas(document: dict[str, Any], replicas: int, was: int) -> int:
    """The number of replicas now. Raises ToolFailed where it is neither of the two."""
    now = document["spec"].get("replicas", 1)
    if now not in (replicas, was):
        raise _other(document, "number of replicas", was, now)
    return now


def _check_generation(document: dict[str, Any], was: int) -> None:
    now = document["metadata"].get("generation")
    if now != was:
        raise _other(document, "generation", was, now)


def _other(document: dict[str, Any], field: str, was: Any, now: Any = None) -> ToolFailed:
    has = "" if now is None else f", it is {now!r}"
    return ToolFailed(
        f"{object_label(document)} does not have the {field} {was!r}{has}",
        remedy="Look again: it has changed meanwhile",
    )
