"""The programs that `make dapr` builds, and its promise: once for each content, whole or not at all."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.parts.stack.machine import Ports

MODULE = Path(__file__).resolve().parents[3] / "tools" / "dapr"


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the programs; no test builds them."""
    named = subprocess.run([sys.executable, MODULE / "build", "--where"], capture_output=True, text=True)
    if named.returncode and os.environ.get("REQUIRE_TIERS") == "all":
        pytest.fail("needs `make dapr` first, and every tier is required", pytrace=False)
    if named.returncode:
        pytest.skip("needs `make dapr` first")
    return Path(named.stdout.strip())


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A copy of the module, to change."""
    return Path(shutil.copytree(MODULE, tmp_path / "module"))


@pytest.fixture
def path_without_go(tmp_path: Path) -> str:
    empty = tmp_path / "bin"
    empty.mkdir()
    return str(empty)


def start(module: Path, *arguments: str, **others: str) -> subprocess.Popen[str]:
    """A build under way, in a process group of its own, for a cache that is the test's own."""
    return subprocess.Popen(
        [sys.executable, module / "build", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MESH_CACHE": str(module.parent / "cache")} | others,
        start_new_session=True,
    )


def build(module: Path, *arguments: str, **others: str) -> subprocess.CompletedProcess[str]:
    with start(module, *arguments, **others) as process:
        said, complained = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def folder(module: Path) -> Path:
    return Path(build(module, "--where").stdout.strip())


def daprd_with(
    programs: Path, ports: Ports, component: str, tmp_path: Path
) -> subprocess.CompletedProcess[str]:
    """Start daprd with one component of this type, for as long as it lives."""
    resource = {"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "sample"}}
    spec = {"type": component, "version": "v1"}
    (tmp_path / "sample.yaml").write_text(json.dumps(resource | {"spec": spec}))
    http, grpc, internal = ports.take(3)
    listeners = [
        f"--dapr-http-port={http}",
        f"--dapr-grpc-port={grpc}",
        f"--dapr-internal-grpc-port={internal}",
        "--dapr-listen-addresses=127.0.0.1",
        "--dapr-internal-grpc-listen-address=127.0.0.1",
        "--enable-metrics=false",
    ]
    command = [programs / "daprd", "--app-id=sample", f"--resources-path={tmp_path}", *listeners]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def required_version() -> str:
    version = re.search(r"github.com/dapr/dapr v(\S+)", (MODULE / "go.mod").read_text())
    assert version
    return version[1]


def test_daprd_says_its_version(programs: Path) -> None:
    done = subprocess.run([programs / "daprd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == required_version()


@pytest.mark.parametrize("program", ["daprd", "placement", "scheduler"])
def test_every_log_line_says_the_version(programs: Path, program: str) -> None:
    done = subprocess.run([programs / program, "--log-level=none"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ver={required_version()}" in done.stdout + done.stderr


def test_daprd_refuses_a_component_that_it_does_not_know_by_its_name(
    programs: Path, ports: Ports, tmp_path: Path
) -> None:
    done = daprd_with(programs, ports, "state.redi", tmp_path)
    assert done.returncode == 1
    assert "couldn't find state store state.redi/v1" in done.stdout + done.stderr


def test_what_is_built_is_not_built_again(module: Path, path_without_go: str) -> None:
    built = folder(module)
    built.mkdir(parents=True)
    done = build(module, PATH=path_without_go)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{built}\n", "")
    assert list(built.parent.iterdir()) == [built]


def test_where_names_a_folder_that_is_missing_and_fails(module: Path) -> None:
    done = build(module, "--where")
    assert done.returncode == 1
    assert re.fullmatch(rf"{module.parent}/cache/meshwright/dapr/[0-9a-f]{{16}}\n", done.stdout)
    assert not (module.parent / "cache").exists()


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "build", "cmd/daprd/components.go"])
def test_another_content_has_another_folder(module: Path, name: str) -> None:
    source, before = module / name, folder(module)
    source.write_bytes(source.read_bytes()[:-1] + b" ")
    assert folder(module) != before


def test_a_file_more_or_by_another_name_has_another_folder(module: Path) -> None:
    before = folder(module)
    added = module / "cmd" / "daprd" / "more.go"
    added.write_text("package main\n")
    more = folder(module)
    added.rename(added.with_name("most.go"))
    assert len({before, more, folder(module)}) == 3


def test_other_words_in_the_readme_build_nothing(module: Path) -> None:
    before = folder(module)
    (module / "README.md").write_text("other words")
    assert folder(module) == before


def test_without_go_the_build_says_what_to_install(module: Path, path_without_go: str) -> None:
    done = build(module, PATH=path_without_go)
    assert done.returncode == 1
    assert "not on PATH: install" in done.stderr
    assert not folder(module).exists()


@pytest.mark.needs("go")
def test_a_build_that_fails_keeps_nothing(module: Path) -> None:
    (module / "go.mod").write_text("require github.com/dapr/dapr v0.0.0\nnonsense")
    done = build(module)
    assert done.returncode == 1
    assert "unknown directive: nonsense" in done.stderr and "go build failed with 1" in done.stderr
    assert [path.name for path in folder(module).parent.iterdir()] == ["lock"]


@pytest.mark.needs("go")
@pytest.mark.parametrize("stopped_by", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_folder(module: Path, stopped_by: signal.Signals) -> None:
    with start(module) as process:
        assert process.stderr and "building Dapr" in process.stderr.readline()
        os.killpg(process.pid, stopped_by)
    assert process.returncode != 0
    assert build(module, "--where").returncode == 1
    assert {path.name for path in folder(module).parent.iterdir()} <= {"lock", "partial"}


def test_of_two_builds_the_second_takes_what_the_first_has_built(module: Path, path_without_go: str) -> None:
    built = folder(module)
    built.parent.mkdir(parents=True)
    with built.with_name("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = start(module, PATH=path_without_go)
        assert second.stderr and "another build" in second.stderr.readline()
        built.mkdir()
    with second:
        assert second.communicate() == (f"{built}\n", "")
