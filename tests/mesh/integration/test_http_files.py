"""Files of outcomes over HTTP: a browser saves what agents made, and never runs it as a page of the mesh."""

from pathlib import Path

from meshwright import Agent, Capability, File, Run
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import http_mesh

SCRIPT = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script></svg>"
FILES = (
    ("page.html", "text/html"),
    ("picture.svg", "image/svg+xml"),
    ("x\r\nSet-Cookie: a=1; \"'\u202e\u20ac\ud800.html", "text/x\u65e5\u672c"),
    ("x", "text/html; charset=utf-7\r\nSet-Cookie: a=1"),
)


class Maker(Agent):
    """Makes files that a browser might take for pages."""

    agent_id = "maker"
    capabilities = (Capability("making"),)
    remembers = False

    async def run(self, run: Run) -> str:
        for name, media_type in FILES:
            await run.attach(File(name=name, media_type=media_type, data=SCRIPT))
        return "Made."


async def test_files_are_saved_and_not_shown(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Maker) as api:
        task_id = await api.submit(agent_id="maker", payload={"text": "x"})
        await api.mesh.get(Tasks).outcome(task_id)
        for number in range(1, len(FILES) + 1):
            async with api.session.get(f"/tasks/{task_id}/files/{number}") as response:
                headers = response.headers
                assert (response.status, await response.read()) == (200, SCRIPT)
            assert headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''")
            assert headers["Content-Disposition"].isascii() and "Set-Cookie" not in headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Type"] == "application/octet-stream"
            policies = headers.getall("Content-Security-Policy")
            assert "sandbox" in policies
            assert any(policy.startswith("default-src 'none'; script-src 'self'") for policy in policies)
