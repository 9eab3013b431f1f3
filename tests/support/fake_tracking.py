"""Fakes of MLflow's, Langfuse's and Agenta's servers, as far as sinks call them; none is the real one.

That of MLflow keeps experiments and runs as its REST API documents them: an optional test tries the same on a
real server. That of Langfuse checks scores against the types of Langfuse's SDK, which are made of its API's
definition; no server of it can be run here. So does that of Agenta, with the types of Agenta's SDK.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.support.fake_services import FakeService, Published

PATIENCE_SECONDS = 60
PUBLIC_KEY, SECRET_KEY = "pk-lf-of-this-test", "sk-lf-of-this-test"


class _Waited(FakeService):
    """A fake whose state a test waits for."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self._changed = asyncio.Event()

    async def until(self, is_so: Callable[[], Any]) -> None:
        """Return as soon as the fake's state is so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so():
                await self._changed.wait()
                self._changed.clear()


class FakeMlflow(_Waited):
    """Experiments, runs, and artifacts that the server keeps itself. Of so many runs the answer is `lost`.

    None is made before the `gate` is open; so many were `waiting` for it.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, Any] = {}
        self.lost = self.waiting = 0
        self.gate = asyncio.Event()
        self.gate.set()
        router, api = self.app.router, "/api/2.0/mlflow"
        router.add_get(f"{api}/experiments/get-by-name", self._experiment)
        router.add_post(f"{api}/experiments/create", self._create_experiment)
        router.add_post(f"{api}/runs/search", self._search)
        router.add_post(f"{api}/runs/create", self._create)
        router.add_post(f"{api}/runs/log-batch", self._log)
        router.add_post(f"{api}/runs/update", self._update)
        router.add_put("/api/2.0/mlflow-artifacts/artifacts/{path:.*}", self._put)

    def of(self, task_id: str) -> list[dict[str, Any]]:
        """The runs of a task that have ended."""
        runs = self.runs.values()
        return [run for run in runs if run["tags"].get("meshwright.task") == task_id and run["end_time"]]

    async def ended(self, *task_ids: str) -> list[dict[str, Any]]:
        """One run for each of these tasks, once all are there and have ended."""
        await self.until(lambda: all(map(self.of, task_ids)))
        return [run for task_id in task_ids for run in self.of(task_id)]

    async def _experiment(self, request: web.Request) -> web.Response:
        name = request.query["experiment_name"]
        if name not in self.experiments:
            return _error(404, "RESOURCE_DOES_NOT_EXIST", f"Could not find experiment with name '{name}'")
        known = {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}
        return web.json_response({"experiment": known})

    async def _create_experiment(self, request: web.Request) -> web.Response:
        name = (await request.json())["name"]
        if name in self.experiments:
            return _error(400, "RESOURCE_ALREADY_EXISTS", f"Experiment '{name}' already exists.")
        self.experiments[name] = str(len(self.experiments) + 1)
        return web.json_response({"experiment_id": self.experiments[name]})

    async def _search(self, request: web.Request) -> web.Response:
        asked = await request.json()
        wanted = re.fullmatch(r"tags\.`([\w.]+)` = '([^']*)'", asked["filter"])
        assert wanted is not None and asked["run_view_type"] == "ACTIVE_ONLY"
        found = [
            {"info": run["info"]}
            for run in self.runs.values()
            if run["info"]["experiment_id"] in asked["experiment_ids"]
            and run["tags"].get(wanted[1]) == wanted[2]
        ]
        return web.json_response({"runs": found[: asked["max_results"]]} if found else {})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["experiment_id"] in self.experiments.values() and isinstance(asked["start_time"], int)
        self.waiting += 1
        self._changed.set()
        await self.gate.wait()
        run_id = f"{len(self.runs) + 1:032x}"
        info = {
            "run_id": run_id,
            "run_name": asked["run_name"],
            "experiment_id": asked["experiment_id"],
            "status": "RUNNING",
            "artifact_uri": f"mlflow-artifacts:/{asked['experiment_id']}/{run_id}/artifacts",
        }
        tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
        self.runs[run_id] = {"info": info, "tags": tags, "params": {}, "metrics": {}, "end_time": None}
        if self.lost:
            self.lost -= 1
            return web.Response(status=503)
        return web.json_response({"run": {"info": info}})

    async def _log(self, request: web.Request) -> web.Response:
        asked = await request.json()
        run = self.runs[asked["run_id"]]
        for param in asked["params"]:
            if run["params"].setdefault(param["key"], param["value"]) != param["value"]:
                return _error(400, "INVALID_PARAMETER_VALUE", "Changing param values is not allowed.")
        for metric in asked["metrics"]:
            if not re.fullmatch(r"[/\w.\- :]+", metric["key"]):
                return _error(400, "INVALID_PARAMETER_VALUE", f"Invalid metric name: '{metric['key']}'")
            assert isinstance(metric["timestamp"], int) and isinstance(metric["step"], int)
            point = metric["timestamp"], metric["step"], metric["value"]
            run["metrics"].setdefault(metric["key"], set()).add(point)
        self._changed.set()
        return web.json_response({})

    async def _update(self, request: web.Request) -> web.Response:
        asked = await request.json()
        run = self.runs[asked["run_id"]]
        run["info"]["status"], run["end_time"] = asked["status"], asked["end_time"]
        self._changed.set()
        return web.json_response({"run_info": run["info"]})

    async def _put(self, request: web.Request) -> web.Response:
        self.artifacts[request.match_info["path"]] = await request.json()
        return web.json_response({})


class FakeLangfuse(_Waited):
    """The scores of one project, by their ids. Of so many the answer is `lost`."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.published = Published("langfuse.json")
        self.scores: dict[str, dict[str, Any]] = {}
        self.lost = 0
        self.app.router.add_post("/api/public/scores", self._score)
        self.app.router.add_get("/api/public/projects", self._projects)

    async def _score(self, request: web.Request) -> web.Response:
        if not _is_known(request):
            return web.json_response({"message": "Invalid credentials"}, status=401)
        score = await request.json()
        if not self.published.fits("score", score):
            return web.json_response({"message": "Invalid request data"}, status=400)
        self.scores[score["id"]] = score
        self._changed.set()
        if self.lost:
            self.lost -= 1
            return web.Response(status=503)
        return web.json_response({"id": score["id"]})

    async def _projects(self, request: web.Request) -> web.Response:
        if not _is_known(request):
            return web.json_response({"message": "Invalid credentials"}, status=401)
        return web.json_response({"data": [{"id": "p1", "name": "ours", "metadata": {}}]})


class FakeAgenta(_Waited):
    """Variants and revisions of the application `agents`, by slug, and the revision that is deployed."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.published = Published("agenta.json")
        self.variants: dict[str, dict[str, Any]] = {}
        self.revisions: dict[tuple[str, str], dict[str, Any]] = {}
        self.deployed: dict[str, str] = {}
        self.lost = 0
        router = self.app.router
        router.add_post("/api/simple/applications/query", self._applications)
        router.add_post("/api/applications/variants/query", self._variants)
        router.add_post("/api/applications/variants/", self._create)
        router.add_post("/api/applications/revisions/retrieve", self._retrieve)
        router.add_post("/api/applications/revisions/commit", self._commit)
        router.add_post("/api/applications/revisions/deploy", self._deploy)

    async def _applications(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"ApiKey {SECRET_KEY}":
            return web.json_response({"detail": "Unauthorized"}, status=401)
        is_ours = (await request.json())["application"]["slug"] == "agents"
        found = [{"id": "app-1", "slug": "agents"}] if is_ours else []
        return web.json_response({"count": len(found), "applications": found})

    async def _variants(self, request: web.Request) -> web.Response:
        asked = await request.json()
        for reference in asked["application_refs"]:
            self.published.checked("reference", reference)
        slug = asked["application_variant"]["slug"]
        found = [self.variants[slug]] if slug in self.variants else []
        return web.json_response({"count": len(found), "application_variants": found})

    async def _create(self, request: web.Request) -> web.Response:
        asked = self.published.checked("variant", (await request.json())["application_variant"])
        self.variants[asked["slug"]] = {"id": f"variant-{len(self.variants) + 1}", **asked}
        return web.json_response({"count": 1, "application_variant": self.variants[asked["slug"]]})

    async def _retrieve(self, request: web.Request) -> web.Response:
        found = self.revisions.get(await self._key(request))
        return web.json_response({"count": int(found is not None), "application_revision": found})

    async def _commit(self, request: web.Request) -> web.Response:
        asked = self.published.checked("commit", (await request.json())["application_revision"])
        [slug] = [
            one["slug"] for one in self.variants.values() if one["id"] == asked["application_variant_id"]
        ]
        assert (slug, asked["slug"]) not in self.revisions
        self.revisions[slug, asked["slug"]] = asked
        self._changed.set()
        if self.lost:
            self.lost -= 1
            return web.Response(status=503)
        return web.json_response({"count": 1, "application_revision": asked})

    async def _deploy(self, request: web.Request) -> web.Response:
        environment = (await request.json())["environment_ref"]["slug"]
        found = self.revisions[await self._key(request)]
        self.deployed[environment] = found["name"]
        self._changed.set()
        return web.json_response({"count": 1, "application_revision": found})

    async def _key(self, request: web.Request) -> tuple[str, str]:
        asked = await request.json()
        named = [asked[f"application_{what}ref"] for what in ("", "variant_", "revision_")]
        _, variant, revision = [self.published.checked("reference", one)["slug"] for one in named]
        return variant, revision


def _is_known(request: web.Request) -> bool:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    return scheme == "Basic" and base64.b64decode(encoded).decode() == f"{PUBLIC_KEY}:{SECRET_KEY}"


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status)
