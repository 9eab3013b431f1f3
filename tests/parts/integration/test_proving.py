"""`mesh prove` finds known faults, gives no false alarm, and leaves nothing behind."""

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from meshwright.core.errors import StoreFailed
from meshwright.parts.proving.trial import TrialOptions, run_trial
from tests.support.faults.broken_worker import FAULTS
from tests.support.postgres import NAME, PASSWORD, USER, Address, Cluster
from tests.support.running_mesh import MESH, run

SHORT = TrialOptions(minutes=0.05, kills=0, workers=1, rate=10, seed=3)
SHORT_FREEZE = "172"
"""A seed whose frozen worker is frozen for half a second."""


def report_in(folder: Path) -> Mapping[str, Any]:
    [path] = folder.glob("prove-*.json")
    return json.loads(path.read_text())


def schemas(cluster: Cluster) -> list[str]:
    query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mesh_prove%'"
    return [name for (name,) in cluster.rows(query)]


def test_a_run_on_sqlite_holds_and_its_file_repeats_it(tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    first = run("prove", "--minutes", "0.05", "--kills", "1", "--seed", SHORT_FREEZE, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    report = report_in(tmp_path)
    [file] = tmp_path.glob("prove-*.json")
    second = run("prove", "--replay", str(file), "--to", "again", cwd=tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    repeated = report_in(again)
    for name in ("settings", "faults", "held", "store"):
        assert report[name] == repeated[name]
    assert report["settings"]["seed"] == int(SHORT_FREEZE)
    assert report["faults"] == {"worker frozen": 1, "worker killed": 1}
    for figures in (report["figures"], repeated["figures"]):
        assert figures["tasks_accepted"] == figures["tasks_ended_once"] > 0
    assert "0 steps repeated, $0.000000 off" in first.stdout
    assert [path.name for path in (tmp_path / ".mesh").iterdir()] == ["proved.json"]
    assert "this store was proved here" in run("doctor", cwd=tmp_path).stdout
    assert "this store is not proved here: mesh prove" in run("doctor", cwd=again).stdout


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_build_with_a_known_fault_is_found(fault: str, tmp_path: Path) -> None:
    findings = await run_trial(
        SHORT,
        tmp_path / "prove",
        database=None,
        report=print,
        program=("-m", "tests.support.faults.broken_worker", fault),
        patience_seconds=15,
        looks=1,  # the fault stays, however often one looks
    )
    assert any(FAULTS[fault] in complaint for complaint in findings.complaints), findings.complaints
    assert not (tmp_path / "prove").exists()


def test_a_run_on_postgres_drops_what_a_killed_run_left(postgres: Cluster, tmp_path: Path) -> None:
    arguments = ["prove", "--database", postgres.url(), "--workers", "2", "--minutes", "0.05"]
    process = subprocess.Popen([*MESH, *arguments], cwd=tmp_path, start_new_session=True)
    while not schemas(postgres):
        assert process.poll() is None
    process.kill()
    process.wait()
    [left] = schemas(postgres)
    done = run(*arguments, "--kills", "2", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"dropped the schema {left}, which a killed run left" in done.stderr
    assert report_in(tmp_path)["faults"]["connections cut"] == 1
    assert schemas(postgres) == []
    assert not (tmp_path / ".mesh" / "prove").exists()


def test_an_interrupted_run_leaves_nothing(postgres: Cluster, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*MESH, "prove", "--database", postgres.url(), "--minutes", "60"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not schemas(postgres):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "nothing is left" in process.stderr.read()
    assert process.wait() == 130
    process.stderr.close()
    assert schemas(postgres) == []
    assert not (tmp_path / ".mesh" / "prove").exists() and not list(tmp_path.glob("*.json"))


def test_a_schema_with_tasks_is_refused(postgres: Cluster, postgres_url: Address, tmp_path: Path) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE heads (revision bigint)")
        connection.execute("INSERT INTO heads VALUES (1)")
    done = run("prove", "--database", postgres_url, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds the tasks of a mesh" in done.stderr and "--beside" in done.stderr
    assert schemas(postgres) == []


def test_a_role_without_rights_is_told_the_grant(postgres: Cluster, tmp_path: Path) -> None:
    postgres.query(f"CREATE ROLE prover LOGIN PASSWORD '{PASSWORD}'")
    url = postgres.url().replace(f"{USER}:", "prover:", 1)
    done = run("prove", "--database", url, cwd=tmp_path)
    postgres.query("DROP ROLE prover")
    assert done.returncode == 2
    assert f"GRANT CREATE ON DATABASE {NAME} TO prover" in done.stderr.replace('"', "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--database", "nothing"), "address of the database"),
        (("--database", "postgresql://127.0.0.1:1/mesh"), "cannot be reached"),
        (("--workers", "2"), "SQLite has one worker process"),
    ],
)
def test_wrong_input_ends_with_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = run("prove", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not (tmp_path / ".mesh" / "prove").exists()


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    done = run("prove", "--replay", "other.json", cwd=tmp_path)
    assert done.returncode == 2 and "other.json is no report of mesh prove" in done.stderr


async def test_a_worker_that_ends_at_once_is_named_with_its_last_line(tmp_path: Path) -> None:
    program = ("-c", "import sys; sys.exit('the disk is away')")
    with pytest.raises(StoreFailed, match="ended with status 1; its last line: the disk is away"):
        await run_trial(SHORT, tmp_path / "prove", database=None, report=print, program=program)
