"""Toolsets: tools that several agents share, made once per process, and the workspace that they may read.

A path of the workspace is resolved first, links included, and has to lie inside. It is then opened folder by
folder, from the root on and following no link, so that a link put there after the check leads nowhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ValidationError

from meshwright.agents.tools.functions import collect_tools
from meshwright.agents.tools.limited_work import ToolThreads
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import ConfigError, InvalidInput, TooLarge, sentence

_SKIPPED = frozenset({".venv", "venv", "node_modules", "__pycache__", ".tox", ".hypothesis", ".eggs"})
"""Left out of listings and searches, as are folders named `*_cache`, and all that is private."""
MAX_WALKED = 50_000
_BINARY_PROBE_BYTES = 8_192

# Non-blocking, because to open a pipe would wait for its writer.
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


_REPOSITORIES = ".git .hg .svn"
_OWN = ".mesh mesh.db* mesh.lock mesh.json last-error.txt admin.token redis.conf appendonlydir"
"""The files of a data folder, wherever one lies and whatever it is called."""
_ENVIRONMENTS = ".env .env.* *.env .envrc"
_LOGINS = """
    .netrc _netrc .git-credentials .npmrc .yarnrc.yml .pypirc .pgpass .my.cnf .htpasswd .aws .azure .boto
    .gnupg .kube kubeconfig .ssh .vault-token .docker/config.json .config/gcloud .config/gh credentials.json
    client_secret*.json service-account*.json service_account*.json secrets.* *.secret *.secrets
    terraform.tfstate* *.tfvars .terraformrc .cargo/credentials* .*_history .claude.json .dockercfg .s3cfg
    wp-config.php passwords.txt application.properties application-*.properties
"""
_KEYS = "id_rsa* id_dsa* id_ecdsa* id_ed25519* *.pem *.key *.p12 *.pfx *.jks *.keystore *.kdbx *.ppk *.age"
PRIVATE = tuple(" ".join((_REPOSITORIES, _OWN, _ENVIRONMENTS, _LOGINS, _KEYS)).split())
_NAMES = "|".join("[^/]*".join(map(re.escape, name.split("*"))) for name in PRIVATE)
_PATH = re.compile(rf"(?:^|/)(?:{_NAMES})(?:/|$)")


def _is_private(path: str) -> bool:
    """Whether a path, relative to the workspace, names a private file or leads through a private folder."""
    return _PATH.search(path.casefold()) is not None


class WorkspaceFile(NamedTuple):
    """A file of the workspace: its path from the root, and its size in bytes."""

    path: str
    size: int


class _Listing(NamedTuple):
    """The files that a walk found, in a fixed order; not `complete` if there was too much to walk."""

    files: list[WorkspaceFile]
    complete: bool


class Workspace:
    """The files under `root`; a path or a link that leads anywhere else is refused.

    Private files are refused too: those with names that commonly hold secrets, and all at or below one of the
    `hidden` paths, such as the mesh's own data.
    """

    def __init__(self, root: Path, hidden: Sequence[Path] = ()) -> None:
        self.root = root.resolve()
        resolved = [path.resolve() for path in hidden]
        self._is_hidden = any(self.root.is_relative_to(path) for path in resolved)
        self.hidden = tuple(
            path.relative_to(self.root).as_posix() for path in resolved if path.is_relative_to(self.root)
        )
        """The hidden paths, from the root on."""

    def read(self, path: str, max_bytes: int) -> str:
        """The text of a file, undecodable bytes replaced.

        Raises InvalidInput for what is not there, not inside or not a text file, TooLarge for a big one.
        """
        with self._opened(path) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidInput(f"{path!r} is not a file", remedy="list_files shows what is", field="path")
            with open(fd, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise TooLarge(f"{path!r} has more than {max_bytes:,} bytes", remedy="search it", field="path")
        if b"\0" in data[:_BINARY_PROBE_BYTES]:
            raise InvalidInput(f"{path!r} is not a text file", field="path")
        return data.decode(errors="replace")

    def walk(self, folder: str = "") -> _Listing:
        """The files in and below a folder, but for those skipped. Links are not followed, nor listed."""
        start = self.locate(folder)
        files: list[WorkspaceFile] = []
        walked = 0
        with self._opened(folder) as fd:
            for where, folders, names, folder_fd in os.fwalk(".", dir_fd=fd):
                inside = (start / where).as_posix()
                folders[:] = sorted(name for name in folders if self._is_shown(inside, name))
                walked += len(folders) + len(names)
                if walked > MAX_WALKED:
                    return _Listing(files, complete=False)
                visible = sorted(name for name in names if self._is_shown(inside, name))
                sizes = {name: _size(name, folder_fd) for name in visible}
                files += [
                    WorkspaceFile(_joined(inside, name), size)
                    for name, size in sizes.items()
                    if size is not None
                ]
        return _Listing(files, complete=True)

    def locate(self, path: str) -> PurePath:
        """The target of a path, links included, from the root on; it need not exist.

        Raises InvalidInput for one that leads out of the workspace, or to what is private.
        """
        try:
            inside = Path(os.path.realpath(self.root / path)).relative_to(self.root)
        except ValueError as error:
            remedy = "Give a path from the workspace's root on, as list_files shows them"
            raise InvalidInput(f"{path!r} leads out of the workspace", remedy=remedy, field="path") from error
        if self._is_hidden:
            remedy = "Set another workspace in mesh.toml"
            raise InvalidInput("the workspace lies in the mesh's own data", remedy=remedy, field="path")
        if self._is_private(inside.as_posix()):
            raise InvalidInput(f"{path!r} is private", remedy="Read something else", field="path")
        return inside

    def _is_private(self, inside: str) -> bool:
        return _is_private(inside) or any(
            inside == path or inside.startswith(f"{path}/") for path in self.hidden
        )

    def _is_shown(self, folder: str, name: str) -> bool:
        skipped = name in _SKIPPED or name.endswith("_cache") or self._is_private(_joined(folder, name))
        # A name that is not UTF-8 could not be written as JSON, nor be asked for.
        return not skipped and name.isprintable()

    @contextmanager
    def _opened(self, path: str) -> Generator[int, None, None]:
        inside = self.locate(path)
        try:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            problem = f"the workspace cannot be opened: {error.strerror}"
            raise ConfigError(problem, path=str(self.root), field="workspace") from error
        try:
            for part in inside.parts:
                parent, fd = fd, os.open(part, _NO_LINK, dir_fd=fd)
                os.close(parent)
            yield fd
        except OSError as error:
            raise InvalidInput(
                f"{path!r} cannot be read: {error.strerror}", remedy="list_files shows what can", field="path"
            ) from error
        finally:
            os.close(fd)


def _size(name: str, folder_fd: int) -> int | None:
    with suppress(OSError):  # it was removed since the folder was listed
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    return None


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """The workspace of the tools, and their limits: `[tools]` of the settings."""

    workspace: Path = Path()
    """The folder that tools may read."""
    hidden: tuple[Path, ...] = ()
    """Paths that `files` gives no access to, beside files whose names commonly hold secrets."""
    files: Workspace = field(init=False, repr=False)
    """Access to the folder `workspace`, except for what is private."""
    allow_private_addresses: bool = False
    """Whether web tools may fetch from private and local addresses."""
    max_file_bytes: int = 1_000_000
    """Bytes of a file that a tool reads."""
    max_search_bytes: int = 50_000_000
    """Bytes of all files that one search reads."""
    max_page_bytes: int = 1_000_000
    """Bytes of a web page that a tool reads."""
    max_text_chars: int = 20_000
    """Characters of text that one call returns."""
    max_results: int = 100
    """Matches, or names, that one call lists."""
    fetch_timeout_seconds: float = 20.0
    """Seconds that fetching a page may take."""
    max_redirects: int = 5
    """Redirects that fetching a page follows."""
    git_timeout_seconds: float = 10.0
    """Seconds that one git command may take."""
    tool_timeout_seconds: float = 60.0
    """Seconds that a call of a tool may take unless the tool says otherwise."""
    max_concurrency: int = 8
    """Threads that the tools of one agent may use at a time."""
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tables [tools.NAME] of the settings, by name."""
    kinds: Mapping[str, Mapping[str, BaseModel]] = field(default_factory=dict)
    """The tables of toolsets of which there may be several, as [kube.prod], by kind and name."""
    table: str = ""
    """The name of the table of such a toolset."""
    project: Path = Path()
    """The folder of the project."""
    get: Callable[[type[Any]], Any] = field(default=lambda kind: _nothing(kind), repr=False)
    """Returns a thing that a component of the mesh provides, by its type: `settings.get(Sandbox)`. Ask in
    `start`, when all components have joined. Raises LookupError."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", Workspace(self.workspace, self.hidden))

    def with_table(self, table: str) -> ToolSettings:
        """The settings of the toolset that has a table."""
        return replace(self, table=table) if table else self


def _nothing(kind: type[Any]) -> Any:
    raise LookupError(f"There is no mesh that provides {kind.__name__}")


class Toolset:
    """Base of a set of tools. Name the class in an agent's `toolsets`; its `@tool` methods become tools.

    A process has one instance, which its agents share: keep nothing of a task in it. `start` is called by the
    first run that may use it, `tools` behind it, so that it may ask another system which tools there are, and
    `close` as the mesh stops. One that raises in `start`, or calls `lost`, is closed and started again after
    a pause of 1 to 60 seconds, all in one asyncio task; its agents work on without it meanwhile.
    """

    name: ClassVar[str] = ""
    """The name by which agents name it, and of its table [tools.NAME] in mesh.toml."""
    kind: ClassVar[str] = ""
    """The KIND of a toolset that may exist several times: each table [KIND.NAME] makes an instance, named
    "KIND.NAME"."""
    config_type: ClassVar[type[BaseModel] | None] = None
    """The pydantic model of its table, whose values `config` has. None: it has no settings."""

    def __init__(self, settings: ToolSettings) -> None:
        self.settings = settings
        self.table = settings.table
        """The name of its table, where its kind has several."""
        kind_table: Any = settings.kinds.get(self.kind, {}).get(self.table) if self.kind else None
        self.config: Any = (
            self._configured(settings.tables.get(self.name, {})) if kind_table is None else kind_table
        )
        self.threads = ToolThreads()
        self.left_out: Mapping[str, str] = {}
        """The tools that the system behind it has and that are not offered, by name, each with the reason as
        a clause. Set it in `tools`: `mesh status`, `mesh agents show` and `mesh doctor` name them."""
        self.on_news: Callable[[str], None] = lambda error: None
        """Called by `lost` with its reason, and by `changed` without one."""

    def _configured(self, table: Mapping[str, Any]) -> BaseModel | None:
        if self.config_type is None:
            if table:
                raise ConfigError(f"[tools.{self.name}]: the toolset {type(self).__name__} has no settings")
            return None
        try:
            return self.config_type.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            problem = f"[tools.{self.name}] {place}: {sentence(first)}"
            variable = "__".join(map(str, ("MESH_TOOLS", self.name, *first["loc"]))).upper()
            remedy = f"Correct it in mesh.toml, or set {variable}"
            raise ConfigError(problem, remedy=remedy, field=place) from None

    @property
    def lack(self) -> str:
        """The settings that it cannot work without and that are not set, as a sentence; else "".

        Such a toolset is degraded from the start, has no tools, and is never started.
        """
        return ""

    async def start(self) -> None:
        """Connect. After an error the tools are not available until a later start succeeds."""

    async def tools(self) -> Sequence[Tool]:
        """The tools of the set: its `@tool` methods. Override it to offer others, or to wrap them."""
        return collect_tools(self, threads=self.threads)

    async def check(self) -> str:
        """A sentence for `mesh doctor` on the system behind the tools; raises MeshError where it fails."""
        return ""

    async def close(self) -> None:
        """Give back what the tools hold."""

    def lost(self, reason: str) -> None:
        """Say that the connection is lost: calls fail with the reason until it has started again."""
        self.on_news(reason)

    def changed(self) -> None:
        """Say that there are other tools now: `tools` is asked again, and later runs have them."""
        self.on_news("")
