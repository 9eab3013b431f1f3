"""The toolset `argocd`: applications of Argo CD, their state, and changes of what is deployed.

A change shows the manifests that it deploys beside those that are deployed. It is for the applications,
repositories and namespaces that the operator lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import unified_diff
from hashlib import sha256
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic_core import from_json

from meshwright.agents.tools.tool import ToolContext, Unchanged, tool
from meshwright.core.checks import CheckResult
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.settings.forms import Table
from meshwright.toolsets.rest import RestPart, RestService, RestTools, first_rows, fits, settled

_API = ("api", "v1", "applications")
_HERE = "https://kubernetes.default.svc"
_STEP = "meshwright-step"  # names the call of a tool that an operation is of
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_VERSION = re.compile(r"v?\d+\.\d+\.\d+([+-][0-9A-Za-z.+-]+)?")  # of a chart; a shorter one is a range
_MAX_APPS = 100
_MAX_RESOURCES = 50
_MAX_DIFF_CHARS = 8_000
_MAX_TEXT_CHARS = 500

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
Repo = Annotated[
    str, Field(pattern=r"^(https|ssh)://[A-Za-z0-9@:/._~-]{1,500}$|^git@[A-Za-z0-9:/._~-]{1,500}$")
]
Path = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-][A-Za-z0-9._/-]{0,499}$")]


class ArgocdService(RestService):
    """[tools.argocd.server]: the API of Argo CD, and the changes that are allowed."""

    applications: tuple[str, ...] = ()
    """Patterns of the applications that may be changed; without any nothing is changed."""
    repos: tuple[str, ...] = ()
    """Patterns of the repositories that new applications may deploy, like `https://git.example.com/home/*`."""
    namespaces: tuple[str, ...] = ()
    """Patterns of the namespaces that new applications may deploy to."""


class ArgocdSettings(Table):
    """[tools.argocd]: Argo CD."""

    server: ArgocdService | None = None
    """Argo CD 2.8 or newer, with the token of an account whose role permits what is asked of it."""


class Argocd(RestPart[ArgocdService]):
    """The tools over Argo CD's API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def apps(self, project: str = "") -> dict[str, Any]:
        """List applications with their sync status, health and revision.

        Args:
            project: only those of this project
        """
        apps = await self._list({"projects": project} if project else {})
        summaries = [_summary(app) for app in sorted(apps, key=lambda app: app["metadata"]["name"])]
        return first_rows("apps", summaries, _MAX_APPS)

    @tool(idempotent=True, effect="read", origin="outside")
    async def app(self, name: Name) -> dict[str, Any]:
        """Show an application: its state, its last operation, and resources that are not well or not in sync.

        Args:
            name: the application's
        """
        app = await self._app(name)
        status = app.get("status", {})
        operation = status.get("operationState") or {}
        conditions = status.get("conditions") or []
        resources = [_resource(resource) for resource in status.get("resources") or []]
        unwell = [
            resource
            for resource in resources
            if resource["sync"] not in ("Synced", "") or resource["health"] not in ("Healthy", "")
        ]
        return {
            **_summary(app),
            "operation": {
                "phase": operation.get("phase", ""),
                "message": _short(operation.get("message", "")),
                "finished": operation.get("finishedAt", ""),
            },
            "conditions": [_short(condition.get("message", "")) for condition in conditions],
            "images": (status.get("summary", {}).get("images") or [])[:_MAX_RESOURCES],
            "resources": len(resources),
            "unwell": unwell[:_MAX_RESOURCES],
        }

    @tool(idempotent=True, effect="read", origin="outside")
    async def app_history(self, name: Name) -> list[dict[str, Any]]:
        """List what was deployed, the newest first, with the id that rollback_app takes.

        Args:
            name: the application's
        """
        history = (await self._app(name)).get("status", {}).get("history") or []
        return [
            {"id": item["id"], "revision": item.get("revision", ""), "deployed": item.get("deployedAt", "")}
            for item in reversed(history)
        ]

    @tool(idempotent=True, effect="read", origin="outside")
    async def app_diff(self, name: Name, revision: str = "") -> dict[str, Any]:
        """Compare what runs with what should, or what is deployed with another revision.

        Args:
            name: the application's
            revision: a revision to compare the deployed one with; by default the cluster is compared
        """
        if revision:
            return await self._plan(await self._app(name), revision)
        resources = await self.server.get("api", "v1", "applications", name, "managed-resources")
        items = [item for item in resources.get("items") or [] if item.get("modified", True)]
        live = [_parsed(item.get("normalizedLiveState")) for item in items]
        target = [_parsed(item.get("predictedLiveState")) for item in items]
        return _difference(_texts(live), _texts(target))

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_sync_app",
        check="_has_begun_sync",
    )
    async def sync_app(
        self, name: Name, revision: Revision, context: ToolContext, prune: bool = False
    ) -> dict[str, Any]:
        """Deploy a revision of an application; `app` then says how it goes.

        Args:
            name: the application's
            revision: the whole id of a commit, as app_diff shows it, or the whole version of a chart
            prune: whether resources that it does not have any more are deleted
        """
        self._check(name)
        app = await self._app(name)
        if (state := _last_operation(app, context.step_id)) is not None:
            return {"started": False, "phase": state["phase"]}
        if not _is_fixed(app, revision):
            raise InvalidInput(f"{revision} may soon be another commit", field="revision")
        _check_idle(app)
        infos = [{"name": _STEP, "value": context.step_id}]
        body = {"name": name, "revision": revision, "prune": prune, "infos": infos}
        await self.server.call("POST", *_API, name, "sync", body=body)
        return {"started": True, "revision": revision}

    async def _preview_sync_app(
        self, name: Name, revision: Revision, context: ToolContext, prune: bool = False
    ) -> dict[str, Any] | Unchanged:
        self._check(name)
        app = await self._app(name)
        if _last_operation(app, context.step_id) is not None:
            return Unchanged()
        if not _is_fixed(app, revision):
            resolved = await self._resolved(app, revision)
            commit = f"the commit, {resolved}," if resolved != revision else "the whole id of the commit"
            remedy = f"Name {commit} so that nothing else is deployed than was approved"
            raise InvalidInput(f"{revision} may soon be another commit", remedy=remedy, field="revision")
        return {**await self._plan(app, revision), "prune": prune}

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_rollback_app",
        check="_has_begun_rollback",
    )
    async def rollback_app(self, name: Name, id: int) -> dict[str, Any]:
        """Deploy again what was deployed before; `app` then says how it goes.

        Args:
            name: the application's
            id: the id in app_history
        """
        app, revision = await self._rolled_back(name, id)
        if _is_deployed(app, revision):
            return {"started": False, "revision": revision}
        _check_idle(app)
        await self.server.call("POST", *_API, name, "rollback", body={"name": name, "id": id})
        return {"started": True, "revision": revision}

    async def _preview_rollback_app(self, name: Name, id: int) -> dict[str, Any] | Unchanged:
        app, revision = await self._rolled_back(name, id)
        return Unchanged() if _is_deployed(app, revision) else await self._plan(app, revision)

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_create_app",
        check="_was_created",
    )
    async def create_app(
        self, name: Name, repo: Repo, path: Path, namespace: Name, project: Name = "default"
    ) -> dict[str, Any]:
        """Create an application for a folder of a repository; sync_app then deploys it.

        Args:
            name: the application's
            repo: URL of the repository
            path: folder of the manifests
            namespace: where to deploy to
            project: the project of Argo CD
        """
        app = self._wanted(name, repo, path, namespace, project)
        existing_app = await self._find(name)
        if existing_app is not None:
            _check_same(existing_app, app)
            return {"changed": False}
        await self.server.call("POST", *_API, body=app)
        return {"changed": True}

    async def _preview_create_app(
        self, name: Name, repo: Repo, path: Path, namespace: Name, project: Name = "default"
    ) -> dict[str, Any] | Unchanged:
        app = self._wanted(name, repo, path, namespace, project)
        if (existing_app := await self._find(name)) is None:
            return {"after": app["spec"]}
        _check_same(existing_app, app)
        return Unchanged()

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_delete_app",
        check="_was_deleted",
    )
    async def delete_app(self, name: Name, cascade: bool) -> dict[str, Any]:
        """Delete an application.

        Args:
            name: the application's
            cascade: whether all that it has deployed is deleted too
        """
        self._check(name)
        if _is_gone(await self._find(name)):
            return {"changed": False}
        params = {"cascade": "true" if cascade else "false"}
        await self.server.call("DELETE", *_API, name, params=params, body={})  # none without a type is taken
        return {"changed": True}

    async def _preview_delete_app(self, name: Name, cascade: bool) -> dict[str, Any] | Unchanged:
        self._check(name)
        app = await self._find(name)
        if app is None or _is_gone(app):
            return Unchanged()
        resources = (app.get("status", {}).get("resources") or []) if cascade else []
        deleted = sorted(f"{item.get('kind', '')} {item.get('name', '')}" for item in resources)
        return {"before": _summary(app)["source"], "deletes": deleted}

    async def _has_begun_sync(self, name: str, step_id: str, revision: str) -> CheckResult:
        state = _last_operation(await self._app(name), step_id)
        words = "is not of this call" if state is None else f"is of this call, and {state['phase']}"
        result = {"started": True, "revision": revision}
        return settled(state is not None, result, f"The last operation of {name} {words}.")

    async def _has_begun_rollback(self, name: str, id: int) -> CheckResult:
        app, revision = await self._rolled_back(name, id)
        is_so = _is_deployed(app, revision)
        words = "deploys" if is_so else "does not deploy"
        result = {"started": True, "revision": revision}
        return settled(is_so, result, f"The last operation of {name} {words} {revision}.")

    async def _was_created(
        self, name: str, repo: str, path: str, namespace: str, project: str = "default"
    ) -> CheckResult:
        app = self._wanted(name, repo, path, namespace, project)
        existing_app = await self._find(name)
        if existing_app is not None:
            _check_same(existing_app, app)
        words = "There is no" if existing_app is None else "There is the"
        return settled(existing_app is not None, {"changed": True}, f"{words} application {name}.")

    async def _was_deleted(self, name: str) -> CheckResult:
        is_gone = _is_gone(await self._find(name))
        words = "is gone, or goes" if is_gone else "is there"
        return settled(is_gone, {"changed": True}, f"The application {name} {words}.")

    async def check(self) -> None:
        """Read the applications, which takes the token."""
        await self._list({})

    def _wanted(self, name: str, repo: str, path: str, namespace: str, project: str) -> dict[str, Any]:
        self._check(name)
        if not fits(repo, self.server.service.repos) or not fits(namespace, self.server.service.namespaces):
            remedy = "only repos and namespaces in [tools.argocd.server] of mesh.toml permit that"
            raise InvalidInput(f"{repo} may not be deployed to {namespace}", remedy=remedy, field="repo")
        if ".." in path.split("/"):
            raise InvalidInput(f"{path!r} leads out of the repository", field="path")
        source = {"repoURL": repo, "path": path, "targetRevision": "HEAD"}
        destination = {"server": _HERE, "namespace": namespace}
        spec = {"project": project, "source": source, "destination": destination}
        return {"metadata": {"name": name}, "spec": spec}

    def _check(self, name: str) -> None:
        if not fits(name, self.server.service.applications):
            remedy = "only applications in [tools.argocd.server] of mesh.toml permits that"
            raise InvalidInput(f"application {name!r} may not be changed", remedy=remedy, field="name")

    async def _rolled_back(self, name: str, id: int) -> tuple[dict[str, Any], str]:
        self._check(name)
        app = await self._app(name)
        history = app.get("status", {}).get("history") or []
        revision = next((item.get("revision", "") for item in history if item["id"] == id), "")
        if not revision:
            raise InvalidInput(
                f"{name} has no {id} in its history", remedy="app_history lists it", field="id"
            )
        return app, revision

    async def _plan(self, app: Mapping[str, Any], revision: str) -> dict[str, Any]:
        """The difference between the manifests that are deployed and those of a revision, as a commit."""
        name, deployed = app["metadata"]["name"], _deployed(app)
        if app["spec"].get("sources"):
            raise ToolFailed(f"{name} has several sources, whose revisions are not compared here")
        resolved = await self._resolved(app, revision)
        after = await self.server.get(*_API, name, "manifests", params={"revision": resolved})
        before: Mapping[str, Any] = {}
        if deployed:
            before = await self.server.get(*_API, name, "manifests", params={"revision": deployed})
        texts = [_texts(map(_parsed, answer.get("manifests") or [])) for answer in (before, after)]
        return {"deployed": deployed, "revision": resolved, **_difference(*texts)}

    async def _resolved(self, app: Mapping[str, Any], revision: str) -> str:
        """The commit that a name stands for now: Argo CD tells it only of what the application follows."""
        source = app["spec"].get("source") or {}
        if _is_fixed(app, revision) or revision != (source.get("targetRevision") or "HEAD"):
            return revision
        fresh = await self.server.get(*_API, app["metadata"]["name"], params={"refresh": "normal"})
        return fresh.get("status", {}).get("sync", {}).get("revision") or revision

    async def _app(self, name: str) -> dict[str, Any]:
        app = await self._find(name)
        if app is None:
            raise ToolFailed(f"there is no application {name!r}", remedy="apps lists them")
        return app

    async def _find(self, name: str) -> dict[str, Any] | None:
        """An application; of one by itself Argo CD does not say whether it is missing or not permitted."""
        return next(
            (app for app in await self._list({"name": name}) if app["metadata"]["name"] == name), None
        )

    async def _list(self, params: Mapping[str, str]) -> list[dict[str, Any]]:
        answer = await self.server.get(*_API, params=params)
        if not isinstance(answer, dict) or "metadata" not in answer:
            raise ToolFailed(f"{self.server.service.url} does not answer as Argo CD does")
        return answer.get("items") or []


class ArgocdTools(RestTools):
    """Reads and changes what Argo CD deploys."""

    name = "argocd"
    config_type = ArgocdSettings
    parts: ClassVar = {"server": Argocd}


def _summary(app: Mapping[str, Any]) -> dict[str, Any]:
    spec, status = app["spec"], app.get("status", {})
    source = spec.get("source") or (spec.get("sources") or [{}])[0]
    return {
        "app": app["metadata"]["name"],
        "project": spec.get("project", ""),
        "sync": status.get("sync", {}).get("status", ""),
        "health": status.get("health", {}).get("status", ""),
        "revision": _deployed(app),
        "source": f"{source.get('repoURL', '')} {source.get('path', '') or source.get('chart', '')}",
        "namespace": spec.get("destination", {}).get("namespace", ""),
    }


def _is_fixed(app: Mapping[str, Any], revision: str) -> bool:
    """Whether a revision is the same for ever, unlike a branch, a tag, or a range of versions."""
    source = app["spec"].get("source") or {}
    is_git = not source.get("chart") and not source.get("repoURL", "").startswith("oci://")
    return (_COMMIT if is_git else _VERSION).fullmatch(revision) is not None


def _is_gone(app: Mapping[str, Any] | None) -> bool:
    """Whether there is no such application, or it goes once all that it has deployed is gone."""
    return app is None or "deletionTimestamp" in app["metadata"]


def _deployed(app: Mapping[str, Any]) -> str:
    """The revision that was deployed last."""
    history = app.get("status", {}).get("history") or []
    return history[-1].get("revision", "") if history else ""


def _resource(resource: Mapping[str, Any]) -> dict[str, str]:
    health = resource.get("health") or {}
    return {
        "kind": resource.get("kind", ""),
        "name": resource.get("name", ""),
        "sync": resource.get("status", ""),
        "health": health.get("status", ""),
        "message": _short(health.get("message", "")),
    }


def _is_running(app: Mapping[str, Any]) -> bool:
    state = app.get("status", {}).get("operationState") or {}
    return "operation" in app or state.get("phase") == "Running"


def _check_idle(app: Mapping[str, Any]) -> None:
    if _is_running(app):
        name = app["metadata"]["name"]
        raise ToolFailed(f"another operation of {name} is running", remedy="app says when it has ended")


def _last_operation(app: Mapping[str, Any], step_id: str) -> dict[str, str] | None:
    """The state of the operation that a call of a tool has begun, if it is the last one."""
    state = app.get("status", {}).get("operationState") or {}
    for operation, phase in ((app.get("operation"), "Running"), (state.get("operation"), state.get("phase"))):
        for info in (operation or {}).get("info") or []:
            if (info.get("name"), info.get("value")) == (_STEP, step_id):
                return {"phase": phase or ""}
    return None


def _is_deployed(app: Mapping[str, Any], revision: str) -> bool:
    """Whether the last operation is to deploy a revision, and goes on or has done so."""
    last = (app.get("status", {}).get("operationState") or {}).get("operation")
    operation = app.get("operation") or last or {}
    has_begun = (operation.get("sync") or {}).get("revision") == revision
    return has_begun and (_is_running(app) or _deployed(app) == revision)


def _check_same(existing_app: Mapping[str, Any], app: Mapping[str, Any]) -> None:
    spec = existing_app["spec"]
    if any(spec.get(name) != value for name, value in app["spec"].items()):
        name = existing_app["metadata"]["name"]
        raise ToolFailed(f"there is another application {name!r}", remedy="Give the new one another name")


def _parsed(text: str | None) -> Any:
    return from_json(text) if text else None


def _texts(manifests: Any) -> dict[str, str]:
    """Manifests as text by what they are, with the values of secrets hidden."""
    texts: dict[str, str] = {}
    for manifest in manifests:
        if isinstance(manifest, dict):
            metadata = manifest.get("metadata") or {}
            title = f"{manifest.get('kind', '')} {metadata.get('namespace', '')}/{metadata.get('name', '')}"
            texts[title] = json.dumps(_without_secrets(manifest), indent=1, sort_keys=True)
    return texts


def _without_secrets(manifest: Mapping[str, Any]) -> dict[str, Any]:
    if manifest.get("kind") != "Secret":
        return {**manifest}
    hidden = {field: "[hidden]" for field in ("data", "stringData") if field in manifest}
    metadata = {**(manifest.get("metadata") or {})}
    metadata.pop("annotations", None)  # kubectl keeps the whole manifest there
    return {**manifest, **hidden, "metadata": metadata}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """A unified diff by resource, its head, and the hash of all of it."""
    lines: list[str] = []
    for title in sorted(before.keys() | after.keys()):
        old, new = before.get(title, "").splitlines(), after.get(title, "").splitlines()
        lines += unified_diff(old, new, f"a/{title}", f"b/{title}", n=2, lineterm="")
    whole = "\n".join(lines)
    cut = (
        {"cut": len(whole), "digest": sha256(whole.encode()).hexdigest()}
        if len(whole) > _MAX_DIFF_CHARS
        else {}
    )
    return {"diff": whole[:_MAX_DIFF_CHARS], **cut}


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARS else f"{text[: _MAX_TEXT_CHARS - 3]}..."
