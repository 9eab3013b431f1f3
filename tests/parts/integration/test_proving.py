"""`mesh prove` finds known faults, gives no false alarm, and leaves nothing behind."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from meshwright.core.errors import StoreFailed
from meshwright.core.settings import load_settings
from meshwright.parts.proving.schema import open_schema
from meshwright.parts.proving.trial import TrialOptions, run_trial
from tests.support.faults.broken_worker import (
    BROKER_FAULTS,
    DOUBLED_MESSAGES,
    FAULTS,
    KILL_FAULTS,
    OTHER_ENCODINGS,
    PACKET_IDS,
    POSTGRES_FAULTS,
    SWALLOWED_MESSAGES,
)
from tests.support.mqtt_broker import PLAIN, SECONDS, Mosquitto, client, mosquitto, publish
from tests.support.postgres import NAME, PASSWORD, USER, Address, Cluster
from tests.support.running_mesh import MESH, run
from tests.support.scripted_broker import HABITS, MOCHI_ANSWERS, ScriptedBroker, scripted_broker
from tests.support.simulator.scenario import load_scenarios
from tests.support.simulator.server import Simulator

SHORT = TrialOptions(minutes=0.05, kills=0, workers=1, rate=10, seed=3)
LONG = TrialOptions(minutes=1, kills=12, workers=1, rate=8, seed=13)
"""Long enough for a fault that one kill among some shows."""
SHORT_FREEZE = "172"
"""A seed whose frozen worker is frozen for half a second."""


def report_in(folder: Path) -> Mapping[str, Any]:
    [path] = folder.glob("prove-*.json")
    return json.loads(path.read_text())


def schemas(cluster: Cluster) -> list[str]:
    query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mesh_prove%'"
    return [name for (name,) in cluster.rows(query)]


async def wait_until(enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not enough():
            await asyncio.sleep(0.05)


async def await_no_sessions(broker: Mosquitto) -> None:
    """Wait until the broker has no session but those of the two clients here."""
    async with client(broker, "$SYS/broker/clients/total") as one:
        while int((await one.message()).payload) != 2:
            pass


async def retained_topics(broker: Mosquitto) -> list[str]:
    """The topics below mesh-prove that retain a message."""
    topics: list[str] = []
    async with client(broker, "mesh-prove/#") as one:
        one.publish("mesh-prove/last", "last")
        while (message := await one.message()).topic != "mesh-prove/last":
            topics += [message.topic] if message.retain else []
    return topics


def test_a_schema_whose_server_ended_first_is_named_and_dropped_by_the_next_run(
    own_postgres: Cluster,
) -> None:
    said = list[str]()
    with open_schema(own_postgres.url(), said.append) as schema:
        schema.create(beside=False)
        own_postgres.stop()
    [line] = said
    assert line.startswith(f"the schema {schema.name} stays, and the next run here drops it: ")
    own_postgres.start()
    with open_schema(own_postgres.url(), said.append) as other:
        assert other.create(beside=False) == [schema.name]
    assert schemas(own_postgres) == [] and said == [line]


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
    elsewhere = run("doctor", cwd=again, MESH_MQTT__URL="mqtt://127.0.0.1:1").stdout
    assert "this store is not proved here: mesh prove" in elsewhere
    assert "this broker is not proved here: mesh prove --broker mqtt://127.0.0.1:1" in elsewhere


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


@pytest.mark.soak("minutes: each has to wait for a kill that shows it")
@pytest.mark.parametrize("fault", KILL_FAULTS)
async def test_a_build_whose_fault_a_kill_shows_is_found(fault: str, tmp_path: Path) -> None:
    findings = await run_trial(
        LONG,
        tmp_path / "prove",
        database=None,
        report=print,
        program=("-m", "tests.support.faults.broken_worker", fault),
        patience_seconds=30,
        looks=2,
    )
    words = KILL_FAULTS[fault]
    assert any(words in complaint for complaint in findings.complaints), findings.complaints


async def test_a_build_with_the_encoding_of_the_role_is_found(postgres: Cluster, tmp_path: Path) -> None:
    findings = await run_trial(
        SHORT,
        tmp_path / "prove",
        database=postgres.url(),
        report=print,
        program=("-m", "tests.support.faults.broken_worker", OTHER_ENCODINGS),
        patience_seconds=15,
        looks=1,
    )
    words = POSTGRES_FAULTS[OTHER_ENCODINGS]
    assert any(words in complaint for complaint in findings.complaints), findings.complaints


def at_broker(folder: Path, url: str) -> dict[str, Any]:
    """The arguments of a run at a broker."""
    return {
        "database": None,
        "broker": (load_settings(folder), url),
        "report": print,
        "patience_seconds": 5,
        "looks": 1,
    }


@pytest.mark.parametrize("fault", [DOUBLED_MESSAGES, SWALLOWED_MESSAGES])
async def test_a_build_that_mistakes_messages_is_found(fault: str, tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "broker") as broker:
        findings = await run_trial(
            SHORT,
            tmp_path / "prove",
            program=("-m", "tests.support.faults.broken_worker", fault),
            **at_broker(tmp_path, broker.url),
        )
    assert any(BROKER_FAULTS[fault] in complaint for complaint in findings.complaints), findings.complaints


async def test_a_build_that_knows_messages_by_packet_ids_is_found(tmp_path: Path) -> None:
    async with scripted_broker(HABITS["rabbitmq-4.3.6"]) as broker:
        findings = await run_trial(
            SHORT,
            tmp_path / "prove",
            program=("-m", "tests.support.faults.broken_worker", PACKET_IDS),
            **at_broker(tmp_path, broker.url),
        )
    words = BROKER_FAULTS[PACKET_IDS]
    assert any(words in complaint for complaint in findings.complaints), findings.complaints


async def test_a_run_on_postgres_and_a_broker_removes_what_a_killed_run_left(
    postgres: Cluster, tmp_path: Path
) -> None:
    async with (
        mosquitto(tmp_path / "broker", *PLAIN, "sys_interval 1") as broker,
        client(broker, "mesh-prove/+/default/status") as seen,
    ):
        arguments = ["prove", "--database", postgres.url(), "--broker", broker.url]
        arguments += ["--workers", "2", "--minutes", "0.05"]
        process = subprocess.Popen([*MESH, *arguments], cwd=tmp_path, start_new_session=True)
        killed = (await seen.message()).topic.removesuffix("/default/status")
        process.kill()
        process.wait()
        [left] = schemas(postgres)
        done = await asyncio.to_thread(run, *arguments, "--kills", "2", "--seed", "7", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"dropped the schema {left}, which a killed run left" in done.stderr
        assert f"cleared the topics below {killed}, which a killed run left" in done.stderr
        assert await retained_topics(broker) == []
        await await_no_sessions(broker)
        diagnosis = await asyncio.to_thread(run, "doctor", cwd=tmp_path, MESH_MQTT__URL=broker.url)
        assert "this broker was proved here" in diagnosis.stdout
    report = report_in(tmp_path)
    for fault in ("connections cut", "broker cut", "acknowledgements lost"):
        assert report["faults"][fault] == 1
    assert report["broker"]["messages"] > 0 and report["broker"]["notes"] == []
    assert f"broker     {broker.url}: {report['broker']['messages']} messages acknowledged" in done.stdout
    assert schemas(postgres) == []
    assert not (tmp_path / ".mesh" / "prove").exists()


async def test_a_run_goes_on_through_a_failover(
    own_postgres: Cluster, standby: Cluster, tmp_path: Path
) -> None:
    own_postgres.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
    own_postgres.query("SELECT pg_reload_conf()")
    while own_postgres.rows("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
        await asyncio.sleep(0.05)
    hosts = f"127.0.0.1:{own_postgres.port},127.0.0.1:{standby.port}"
    address = f"postgresql://{USER}:{PASSWORD}@{hosts}/{NAME}?target_session_attrs=read-write"
    options = ["--minutes", "0.2", "--kills", "2", "--workers", "2", "--seed", "7", "--rate", "2"]
    command = [*MESH, "prove", "--database", address, *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    accepted = tmp_path / ".mesh" / "prove"
    await wait_until(lambda: any(accepted.glob("*/accepted.jsonl")))
    own_postgres.stop()
    standby.promote()
    out, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, out
    report = report_in(tmp_path)
    assert report["faults"]["failover"] == 1 and ", 1 failover: " in out
    assert report["figures"]["tasks_accepted"] == report["figures"]["tasks_ended_once"] > 0
    assert not [line for line in report["not_proved"] if line.startswith("failover")]
    assert schemas(standby) == []
    diagnosis = await asyncio.to_thread(run, "doctor", cwd=tmp_path, MESH_DATABASE=address)
    assert "this store was proved here" in diagnosis.stdout


async def test_an_interrupted_run_leaves_nothing(postgres: Cluster, tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker", *PLAIN, "sys_interval 1") as broker,
        client(broker, "mesh-prove/+/default/status") as seen,
    ):
        process = subprocess.Popen(
            [*MESH, "prove", "--database", postgres.url(), "--broker", broker.url, "--minutes", "60"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        await seen.message()
        process.send_signal(signal.SIGINT)
        assert "nothing is left" in await asyncio.to_thread(process.stderr.read)
        assert process.wait() == 130
        process.stderr.close()
        assert await retained_topics(broker) == []
        await await_no_sessions(broker)
    assert schemas(postgres) == []
    assert not (tmp_path / ".mesh" / "prove").exists() and not list(tmp_path.glob("*.json"))


def accepted_by_edge(broker: ScriptedBroker) -> list[Any]:
    """The messages that the edge of a run has acknowledged."""
    sessions = [session for name, session in broker.sessions.items() if name.endswith("-edge")]
    return [message for session in sessions for message in session.acknowledged]


async def test_a_broker_that_renumbers_is_described_and_no_alarm(tmp_path: Path) -> None:
    async with scripted_broker(HABITS["rabbitmq-4.3.6"]) as broker:
        findings = await run_trial(SHORT, tmp_path, **at_broker(tmp_path, broker.url))
        await wait_until(lambda: not broker.sessions)
        assert not broker.retained
    assert not findings.complaints and findings.broker is not None
    assert findings.broker.messages > 0
    notes = "\n".join(findings.broker.notes)
    assert "It redelivers under new packet ids" in notes and "with wildcards" in notes


async def test_a_broker_that_loses_sessions_and_takes_no_more_is_described_and_no_alarm(
    tmp_path: Path,
) -> None:
    async with scripted_broker(HABITS["mosquitto-2.0.11"]) as broker:
        trial = asyncio.create_task(run_trial(SHORT, tmp_path, **at_broker(tmp_path, broker.url)))
        await wait_until(lambda: trial.done() or bool(accepted_by_edge(broker)))
        broker.habits = MOCHI_ANSWERS
        broker.forget()
        broker.break_links()
        findings = await trial
        await wait_until(lambda: not broker.sessions)
        assert not broker.retained
    assert not findings.complaints and findings.broker is not None
    assert 0 < findings.broker.messages < SHORT.tasks / 2
    notes = "\n".join(findings.broker.notes)
    assert "It lost a session" in notes
    assert f"Publishing ended after {findings.broker.messages} messages: the connection was lost" in notes


async def test_topics_of_others_and_missing_rights_at_a_broker_are_named(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite mesh-prove/+/run\ntopic readwrite mesh-prove/other/#\n")
    async with mosquitto(tmp_path / "broker", *PLAIN, f"acl_file {acl}") as broker:
        prove = partial(asyncio.to_thread, run, "prove", "--broker", broker.url, cwd=tmp_path)
        unreadable = await prove()
        assert unreadable.returncode == 2 and "publish to mesh-prove/" in unreadable.stderr, unreadable.stderr
        acl.write_text("topic readwrite mesh-prove/#\n")
        broker.reload()
        await publish(broker, "mesh-prove/other/state", "theirs", "--retain")
        foreign = await prove()
        assert foreign.returncode == 2 and "--beside" in foreign.stderr
        assert "retained topics below mesh-prove/other" in foreign.stderr
        assert await retained_topics(broker) == ["mesh-prove/other/state"]
        no_replies = await prove("--beside")
        assert no_replies.returncode == 2 and "mesh-prove-replies/" in no_replies.stderr, no_replies.stderr
        assert await retained_topics(broker) == ["mesh-prove/other/state"]
    assert not (tmp_path / ".mesh" / "prove").exists()


PRICED = "[ledger]\ndefault_price = { input = 3, output = 15 }\n"


async def test_a_real_model_answers_within_the_budget(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(PRICED)
    async with Simulator(load_scenarios()["poll"]) as simulator:
        prove = partial(asyncio.to_thread, run, "prove", cwd=tmp_path, LITELLM_BASE_URL=f"{simulator.url}/v1")
        some = ["--model", "default", "--budget", "0.01", "--minutes", "0.1", "--kills", "1"]
        done = await prove(*some, "--seed", SHORT_FREEZE, "--trust")
        calls, billed = len(simulator.ledger.charges), simulator.ledger.dollars
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_in(tmp_path)["model"]
    assert 0 < report["answered"] <= calls and report["failures"] == {}, report
    assert billed <= Decimal(report["usd"]) <= Decimal("0.01") == Decimal(report["budget_usd"])
    assert f"model      default: {report['answered']} answer" in done.stdout


def test_a_model_without_budget_or_price_is_refused(tmp_path: Path) -> None:
    unbound = run("prove", "--model", "default", cwd=tmp_path)
    assert unbound.returncode == 2 and "--budget" in unbound.stderr
    address = {"LITELLM_BASE_URL": "http://127.0.0.1:1"}
    unpriced = run("prove", "--model", "m", "--budget", "1", "--trust", cwd=tmp_path, **address)
    assert unpriced.returncode == 2 and "default_price" in unpriced.stderr, unpriced.stderr


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
        (("--broker", "nothing"), "address of the broker"),
        (("--broker", "mqtt://127.0.0.1:1"), "cannot be reached"),
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
