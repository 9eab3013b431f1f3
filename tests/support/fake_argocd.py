"""A fake of Argo CD's API, which needs a cluster to run: one application over a repository of three commits.

Its answers, and the bodies that it takes, are checked against the swagger.json of Argo CD 3.2.6.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.support.fake_services import FakeService, Published

TOKEN = "a-token-of-argo-cd"
FIRST, SECOND, THIRD = ("1" * 40, "2" * 40, "3" * 40)
REPO = "https://git.example.com/home/shop"
_MOMENT = "2026-01-01T00:00:00Z"


def manifests(revision: str) -> list[dict[str, Any]]:
    """The manifests of a commit: each has one more replica, and another password."""
    number = int(revision[0])
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"replicas": number},
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shop", "namespace": "shop", "annotations": {"last": f"hunter{number}"}},
        "data": {"password": f"hunter{number}"},
    }
    return [deployment, secret]


class FakeArgocd(FakeService):
    """The application `shop`, of which FIRST and SECOND were deployed."""

    def __init__(self) -> None:
        super().__init__()
        self.published = Published("argo-cd.json")
        self.main = THIRD
        self.apps: dict[str, dict[str, Any]] = {"shop": _app("shop", REPO)}
        for revision in (FIRST, SECOND):
            self.finish("shop", {"revision": revision}, [])
        router = self.app.router
        router.add_get("/api/v1/applications", self._list)
        router.add_post("/api/v1/applications", self._create)
        router.add_get("/api/v1/applications/{name}", self._refreshed)
        router.add_delete("/api/v1/applications/{name}", self._delete)
        router.add_get("/api/v1/applications/{name}/manifests", self._manifests)
        router.add_get("/api/v1/applications/{name}/managed-resources", self._managed)
        router.add_post("/api/v1/applications/{name}/sync", self._sync)
        router.add_post("/api/v1/applications/{name}/rollback", self._rollback)

    def finish(self, name: str, sync: dict[str, Any], info: list[dict[str, str]]) -> None:
        """End an operation of an application well."""
        app, revision = self.apps[name], sync["revision"]
        history = app["status"].setdefault("history", [])
        history.append({"id": len(history), "revision": revision, "deployedAt": _MOMENT})
        operation = {"sync": sync, "info": info}
        about = {"startedAt": _MOMENT, "finishedAt": _MOMENT, "message": "successfully synced"}
        app["status"]["operationState"] = {"phase": "Succeeded", "operation": operation, **about}
        app["status"]["sync"] = {"status": "Synced", "revision": revision}
        app.pop("operation", None)

    async def _list(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _refused(401, 16, "no session information")
        query = request.query
        found = [
            app
            for name, app in self.apps.items()
            if query.get("name", name) == name
            and query.get("projects", app["spec"]["project"]) == app["spec"]["project"]
        ]
        document = {"metadata": {"resourceVersion": "1"}, "items": found or None}
        shape = {**document, "items": found}  # Go writes an empty list as null
        self.published.checked("v1alpha1ApplicationList", shape)
        return web.json_response(document)

    async def _create(self, request: web.Request) -> web.Response:
        sent = self.published.checked("v1alpha1Application", await request.json())
        self.apps[sent["metadata"]["name"]] = {**sent, "status": {}}
        return web.json_response(self.published.checked("v1alpha1Application", sent))

    async def _refreshed(self, request: web.Request) -> web.Response:
        app = self.apps[request.match_info["name"]]
        assert request.query["refresh"] == "normal" and app["spec"]["source"]["targetRevision"] == "main"
        app["status"]["sync"] = {"status": "OutOfSync", "revision": self.main}
        return web.json_response(self.published.checked("v1alpha1Application", app))

    async def _delete(self, request: web.Request) -> web.Response:
        if request.headers.get("Content-Type") != "application/json":  # as of each request but a GET
            return web.Response(status=415, text="Invalid content type")
        del self.apps[request.match_info["name"]]
        return web.json_response(self.published.checked("applicationApplicationResponse", {}))

    async def _manifests(self, request: web.Request) -> web.Response:
        asked = request.query["revision"]
        revision = self.main if asked == "main" else asked
        if revision not in (FIRST, SECOND, THIRD):
            return _refused(500, 2, f"unable to resolve '{asked}' to a commit SHA")
        found = {"manifests": [*map(json.dumps, manifests(revision))]}  # and not what was resolved
        return web.json_response(self.published.checked("repositoryManifestResponse", found))

    async def _managed(self, request: web.Request) -> web.Response:
        live, target = (manifests(revision)[0] for revision in (FIRST, SECOND))
        item = {"kind": "Deployment", "name": "shop", "namespace": "shop", "group": "apps", "modified": True}
        states = {"normalizedLiveState": json.dumps(live), "predictedLiveState": json.dumps(target)}
        same = {"kind": "Service", "name": "shop", "normalizedLiveState": "{}", "predictedLiveState": "{}"}
        found = {"items": [{**item, **states}, same]}
        return web.json_response(self.published.checked("applicationManagedResourcesResponse", found))

    async def _sync(self, request: web.Request) -> web.Response:
        sent = self.published.checked("applicationApplicationSyncRequest", await request.json())
        sync = {"revision": sent["revision"], "prune": sent.get("prune", False)}
        return self._begin(request.match_info["name"], sync, sent.get("infos", []))

    async def _rollback(self, request: web.Request) -> web.Response:
        sent = self.published.checked("applicationApplicationRollbackRequest", await request.json())
        history = self.apps[request.match_info["name"]]["status"]["history"]
        return self._begin(request.match_info["name"], {"revision": history[sent["id"]]["revision"]}, [])

    def _begin(self, name: str, sync: dict[str, Any], info: list[dict[str, str]]) -> web.Response:
        if "operation" in self.apps[name]:
            return _refused(400, 9, "another operation is already in progress")
        self.apps[name]["operation"] = {"sync": sync, "info": info}
        return web.json_response(self.published.checked("v1alpha1Application", self.apps[name]))


def _app(name: str, repo: str) -> dict[str, Any]:
    resources = [
        {"kind": "Deployment", "name": "shop", "status": "Synced", "health": {"status": "Degraded"}},
        {"kind": "Service", "name": "shop", "status": "Synced", "health": {"status": "Healthy"}},
        {"kind": "ConfigMap", "name": "shop", "status": "OutOfSync"},
    ]
    return {
        "metadata": {"name": name, "namespace": "argocd"},
        "spec": {
            "project": "default",
            "source": {"repoURL": repo, "path": "deploy", "targetRevision": "main"},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": "shop"},
        },
        "status": {
            "health": {"status": "Degraded"},
            "resources": resources,
            "summary": {"images": ["shop:1"]},
            "conditions": [{"type": "ComparisonError", "message": "x" * 1_000}],
        },
    }


def _refused(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"error": message, "code": code, "message": message}, status=status)
