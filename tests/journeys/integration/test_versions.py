"""The oldest and the newest versions that pyproject.toml allows, each installed as a user would."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installed import UV, Installed, install
from tests.support.mqtt_broker import SUBMIT, Mosquitto, ask
from tests.support.running_mesh import mesh_up
from tests.support.services import unavailable

ROOT = Path(__file__).resolve().parents[3]
IMPORTS = """
import importlib, pkgutil, meshwright

names = [module.name for module in pkgutil.walk_packages(meshwright.__path__, "meshwright.")]
for name in names:
    # pytest, which the second is for, nothing installs; the third has an extra that is not among all.
    if not name.endswith(("__main__", "testing.plugin", "meshwright.pydantic_ai")):
        importlib.import_module(name)
print(len(names))
"""


NEWEST = pytest.param("highest", marks=pytest.mark.soak("test_extras.py installs the newest"))
RESOLUTION = os.environ.get("MESH_TEST_RESOLUTION")


@pytest.fixture(params=[RESOLUTION] if RESOLUTION else ["lowest-direct", NEWEST])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Installed]:
    """Installs the project with extras in the oldest or the newest versions."""
    if UV is None:
        unavailable("needs uv: pip has no oldest versions")
    return lambda extras: install(tmp_path, f"{ROOT}{extras}", "--resolution", request.param)


async def test_every_module_imports_with_all_extras(installed: Callable[[str], Installed]) -> None:
    done = await installed("[all]").run("-c", IMPORTS)
    assert done.status == 0, done.err
    assert int(done.out) > 400


@pytest.mark.needs("mosquitto", "mosquitto_rr")
async def test_a_mesh_serves_tasks_page_and_mqtt(
    installed: Callable[[str], Installed], broker: Mosquitto
) -> None:
    there = installed("")
    asked = await there.mesh("ask", "simple-agent", "What is a mesh?")
    assert (asked.status, "offline model" in asked.out) == (0, True), asked
    async with mesh_up(there.folder / "data", "--mqtt", broker.url, up=there.up, cwd=there.folder) as running:
        assert (await running.outcome(await running.submit("Hello")))["status"] == "succeeded"
        assert (await running.get("/openapi.json")).body["paths"]
        async with running.session.get(running.url) as page:
            assert (page.status, page.content_type) == (200, "text/html")
        by_mqtt = await ask(broker, SUBMIT, {"agent_id": "simple-agent", "payload": {"text": "Hello"}})
        assert by_mqtt["status"] == "dispatched"
