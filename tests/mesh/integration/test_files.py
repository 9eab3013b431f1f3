"""A picture from a tool to a provider, and one from there to a folder: over both wires, through a kill -9."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import aiohttp

from meshwright import Client
from meshwright.mesh.app import build_mesh
from tests.support.running_mesh import ROOT, mesh, mesh_up
from tests.support.settings import load_settings
from tests.support.simulator.personas import picture_id
from tests.support.simulator.play import Wire, write_project
from tests.support.simulator.scenario import load_scenarios
from tests.support.simulator.score import job_of
from tests.support.simulator.server import Simulator

PICTURES = load_scenarios()["pictures"]
ACTOR = """from pathlib import Path

from meshwright import Agent, Capability, File, tool

FOLDER = Path({folder!r})


class Painter(Agent):
    agent_id = "painter"
    capabilities = (Capability("painting"),)
    prompt = "simulated"
    remembers = False

    @tool(idempotent=True)
    def photograph(self, subject: str) -> list[str | File]:
        '''Take a photograph.'''
        with (FOLDER / "taken.txt").open("a") as taken:
            taken.write(f"{{subject}}\\n")
        return [f"This is {{subject}}:", File(name="../photo.png", data=(FOLDER / "photo.png").read_bytes())]
"""


def png() -> bytes:
    """A picture of a megabyte, as PNG has it, of which nothing can be left out."""
    noise = b"".join(zlib.crc32(bytes([n % 251, n % 241, n % 239])).to_bytes(4) for n in range(250_000))
    return b"\x89PNG\r\n\x1a\n" + noise


def write_painter(simulator: Simulator, folder: Path, wire: Wire) -> bytes:
    """Write a project whose agent takes a photograph; returns that."""
    write_project(job_of(simulator.scenario, str(folder), simulator.url, wire))
    (folder / "actors").mkdir()
    (folder / "actors" / "painter.py").write_text(ACTOR.format(folder=str(folder)))
    (folder / "photo.png").write_bytes(picture := png())
    return picture


async def test_a_picture_reaches_openai_and_one_comes_back_through_a_kill(tmp_path: Path) -> None:
    data, saved = tmp_path / "data", tmp_path / "saved"
    environment = {
        "MESH_AGENTS__DIR": str(tmp_path / "actors"),
        "MESH_PROMPTS__DIR": str(tmp_path / "prompts"),
        "MESH_MODELS__CONFIG": str(tmp_path / "litellm_config.yaml"),
        "MESH_MODELS__ADAPTER": "router",
        "PYTHONPATH": str(ROOT),
    }
    async with Simulator(replace(PICTURES, seconds=0.3)) as simulator:
        picture = write_painter(simulator, tmp_path, "openai")
        async with mesh_up(data, **environment) as first:
            task_id = await first.submit("Do work item item-1.", agent_id="painter", capability=None)
            await simulator.called.wait()
            simulator.called.clear()
            await simulator.called.wait()  # the model is asked with the photograph, and has not answered yet
            await first.kill()
        async with mesh_up(data, **environment) as second:
            outcome = await second.outcome(task_id)
            shown = await mesh("task", task_id, "--url", second.url)
            done = await mesh("task", task_id, "--save", str(saved), "--url", second.url)
            steps = await mesh("task", task_id, "--steps", "--url", second.url)
            file = await second.client.file(task_id, 1)
            async with second.session.get(f"{second.url}/tasks/{task_id}/files/1") as response:
                raw, headers = await response.read(), response.headers
            missing = await second.get(f"/tasks/{task_id}/files/2")
            events = [str(event) for event in await second.story(task_id)]
            reply = await complete(second.url, picture)
    seen = base64.b64encode(picture).decode()
    assert outcome["result"] == {"text": f"Done: item-1 is painted after {picture_id(seen)}."}
    assert (tmp_path / "taken.txt").read_text() == "item-1\n", "the photograph is taken once"
    [listed] = outcome["files"]
    assert (listed["name"], listed["media_type"], listed["size"]) == (
        "image-1.png",
        "image/png",
        len(picture),
    )
    assert listed["url"] == f"/tasks/{task_id}/files/1"
    assert f"file 1      image-1.png (image/png, {len(picture):,} bytes)" in shown.out
    assert (done.out.strip(), done.status) == (str(saved / "image-1.png"), 0)
    assert [path.name for path in saved.iterdir()] == ["image-1.png"]
    assert (saved / "image-1.png").read_bytes() == raw == file.data == picture
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''image-1.png"
    assert headers["x-content-type-options"] == "nosniff"
    assert missing.status == 404 and "which has 1" in missing.body["detail"]
    assert "[file image-1.png: image/png, 1,000,008 bytes" in steps.out
    assert not [event for event in events if seen[:60] in event], "an event has what a file holds"
    assert reply["images"] == [
        {"index": 0, "type": "image_url", "image_url": {"url": f"data:image/png;base64,{seen}"}}
    ]


async def complete(url: str, picture: bytes) -> dict[str, object]:
    image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(picture).decode()}"},
    }
    content = [{"type": "text", "text": "Do work item item-2."}, image]
    messages = [{"role": "user", "content": content}]
    body = BytesIO(
        json.dumps({"model": "default", "messages": messages, "modalities": ["image", "text"]}).encode()
    )
    async with (
        aiohttp.ClientSession(headers={"content-type": "application/json"}) as session,
        session.post(f"{url}/v1/chat/completions", data=body) as response,
    ):
        answer = await response.json()
        assert response.status == 200, answer
        return answer["choices"][0]["message"]


async def test_a_picture_reaches_anthropic(tmp_path: Path) -> None:
    async with Simulator(PICTURES) as simulator:
        picture = write_painter(simulator, tmp_path, "anthropic")
        settings = load_settings(tmp_path, store="memory", model="router")
        async with build_mesh(settings, project=tmp_path) as running:
            outcome = await Client.local(running).ask("painter", "Do work item item-1.")
    seen = base64.b64encode(picture).decode()
    assert outcome.text == f"Done: item-1 is painted after {picture_id(seen)}.", outcome.error
    assert outcome.files == (), "no model of Anthropic's gives pictures"
