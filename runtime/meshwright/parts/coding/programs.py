"""The programs that coding agents are: their commands, what they are told, and how they are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from meshwright.agents.sandbox.port import ADDRESS
from meshwright.kit import ConfigError
from meshwright.parts.coding.settings import CodingProgram

TOKEN, SERVER = "MESH_RUN_TOKEN", "MESH_RUN_SERVER"
_PACKAGES = "node_modules"
_CODEX = {
    "model_provider": "mesh",
    "model_providers.mesh.name": "mesh",
    "model_providers.mesh.base_url": f"{ADDRESS}/v1",
    "model_providers.mesh.wire_api": "responses",
    "model_providers.mesh.env_key": TOKEN,
    "model_providers.mesh.request_max_retries": 2,
    "model_providers.mesh.stream_max_retries": 2,
    "model": "gpt-5.4",  # which decides on its tools and prompt; the mesh decides which model answers
    "sandbox_mode": "danger-full-access",  # the box is around it
    "analytics.enabled": False,
    "check_for_update_on_startup": False,
}
_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "IS_SANDBOX": "1",  # it lets nobody else off its questions as root
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


class Launch(NamedTuple):
    """How a program is started: its arguments, its variables, the folders that it reads, its first mode."""

    argv: Sequence[str]
    env: Mapping[str, str]
    read: Sequence[Path]
    mode: str = ""


class _ProgramKind(NamedTuple):
    acp: str
    headless: str
    packages: Mapping[str, str]
    """The npm package of each command, with the version that is tested."""
    oldest: Mapping[str, tuple[int, int]]
    """The oldest version of each command that can be used."""


KINDS = {
    "codex": _ProgramKind(
        "codex-acp",
        "codex",
        {"codex-acp": "@zed-industries/codex-acp@0.16.0", "codex": "@openai/codex@0.171.0"},
        {"codex-acp": (0, 16), "codex": (0, 160)},
    ),
    "claude": _ProgramKind(
        "claude-code-acp",
        "claude",
        {
            "claude-code-acp": "@zed-industries/claude-code-acp@0.16.2",
            "claude": "@anthropic-ai/claude-code@2.1.332",
        },
        {"claude-code-acp": (0, 16), "claude": (2, 1)},
    ),
}


def program_command(settings: CodingProgram) -> str:
    """The name of the program that is started."""
    if settings.command:
        return settings.command
    kind = KINDS[settings.program]
    return kind.acp if settings.protocol == "acp" else kind.headless


def located(name: str, settings: CodingProgram) -> Path:
    """The program of a table. Raises ConfigError, with the command that installs it, where there is none."""
    command = program_command(settings)
    path = shutil.which(str(Path(command).expanduser()))
    if path is None:
        raise ConfigError(
            f"[coding.{name}] needs {command}, which is not installed",
            remedy=install_command(settings) or "Install it, or write its path as command",
            field=f"coding.{name}.command",
        )
    return Path(path)


def install_command(settings: CodingProgram) -> str:
    """The command that installs a program, or none where it is not known here."""
    kind = KINDS.get(settings.program)
    package = None if kind is None else kind.packages.get(Path(program_command(settings)).name)
    return f"Install it: npm install -g {package}" if package else ""


def oldest_version(settings: CodingProgram) -> tuple[int, int] | None:
    """The oldest version of a program that can be used; None where that is not known here."""
    kind = KINDS.get(settings.program)
    return None if kind is None else kind.oldest.get(Path(program_command(settings)).name)


def make_launch(name: str, settings: CodingProgram, home: Path, token: str, earlier: str = "") -> Launch:
    """Returns how the program of a table is started, with a home and the token of its gateway.

    A headless one is started with the `earlier` session that it goes on with.
    """
    program = located(name, settings)
    own = {key: value.get_secret_value() for key, value in settings.env.items()}
    env = {TOKEN: token, SERVER: ADDRESS, **_QUIET}
    argv, mode = [str(program)], ""
    if settings.program == "codex":
        env["CODEX_HOME"] = str(home)
        argv += _codex_arguments(settings, earlier)
    elif settings.program == "claude":
        env |= {"CLAUDE_CONFIG_DIR": str(home), "ANTHROPIC_BASE_URL": ADDRESS}
        env["ANTHROPIC_AUTH_TOKEN"] = token
        mode = "" if settings.permissions == "ask" else "bypassPermissions"
        if settings.protocol == "headless":
            argv += _claude_arguments(earlier)
    return Launch([*argv, *settings.args], {**env, **own}, [*settings.read, *_folders(program)], mode)


def _codex_arguments(settings: CodingProgram, earlier: str) -> list[str]:
    asks = settings.permissions == "ask" and settings.protocol == "acp"
    config = {**_CODEX, "approval_policy": "untrusted" if asks else "never"}
    own = [word for key, value in config.items() for word in ("-c", f"{key}={json.dumps(value)}")]
    if settings.protocol == "acp":
        return own
    headless = ["--json", "--skip-git-repo-check", *own]
    return ["exec", "resume", *headless, earlier, "-"] if earlier else ["exec", *headless, "-"]


def _claude_arguments(earlier: str) -> list[str]:
    servers = {
        "mesh": {
            "type": "http",
            "url": f"{ADDRESS}/mcp",
            "headers": {"Authorization": f"Bearer ${{{TOKEN}}}"},
        }
    }
    options = ["-p", "--output-format", "stream-json", "--verbose", "--permission-mode", "bypassPermissions"]
    options += ["--strict-mcp-config", "--mcp-config", json.dumps({"mcpServers": servers})]
    return [*options, *(["--resume", earlier] if earlier else ())]


def _folders(program: Path) -> list[Path]:
    """The folders that a program needs: that of its packages, or its own; none where the system has them."""
    folders = list[Path]()
    for path in (program, program.resolve()):
        parts = path.parts
        below = path.parent if _PACKAGES not in parts else Path(*parts[: parts.index(_PACKAGES)])
        if not below.is_relative_to("/usr") and below not in (Path("/"), Path("/bin"), *folders):
            folders.append(below)
    return folders
