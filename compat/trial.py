"""Runs of recipes: get the software, start it on loopback, run the promises, write the result."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

from compat.recipe import ROOT, Recipe
from meshwright.core.folders import temporary_folder

RESULTS = ROOT / "compat" / "results"
BIN = Path(sys.executable).parent
GET_SECONDS, START_SECONDS, STOP_SECONDS = 1800, 120, 20
GOLD_MINUTES = 60
PORTS = ("port", "port2", "port3")
MISSES = ("failure", "error", "skipped")
CUTS = ("connections cut", "broker cut", "acknowledgements lost")


class RecipeFailed(Exception):
    """The software could not be had or started, so that nothing was run."""


def run_recipe(recipe: Recipe) -> dict[str, Any]:
    """Run a recipe and write its result. Raises RecipeFailed."""
    home = _get(recipe)
    with temporary_folder("compat-") as folder, ExitStack() as servers:
        ports = _free_ports(len(PORTS))
        data = Path(folder, "data")
        data.mkdir()
        data.parent.chmod(0o711)
        names = _names(home) | {
            "data": str(data),
            **{name: str(port) for name, port in zip(PORTS, ports, strict=True)},
        }
        _write_files(recipe, data, names)
        output = _run(recipe.shows, home, names, may_fail=True)  # some fail behind their help
        if recipe.version not in output:
            raise RecipeFailed(
                f"{recipe.id}: pins {recipe.version}, but {recipe.shows!r} says {output[:200]!r}"
            )
        for command in recipe.prepare:
            _run(command, data, names)
        for command, port in zip(recipe.start, ports, strict=False):
            servers.enter_context(_server(recipe, _words(command, names), data, port))
        try:
            run = _prove if recipe.prove else _call_models if recipe.models else _test
            outcome = run(recipe, names, Path(folder))
        except subprocess.TimeoutExpired as error:
            raise RecipeFailed(f"{recipe.id}: {error}") from error
    result = {
        "recipe": recipe.id,
        "name": recipe.name,
        "version": recipe.version,
        "date": datetime.now(UTC).date().isoformat(),
        **outcome,
        "remedy": recipe.remedy,
        "digest": recipe.digest,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{recipe.id}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def _names(home: Path) -> dict[str, str]:
    return {"home": str(home), "python": sys.executable, "uv": str(BIN / "uv"), "root": str(ROOT)}


def _get(recipe: Recipe) -> Path:
    """Run the commands of `get` once for each digest of what they rest on, and return their folder."""
    cache = os.environ.get("MESH_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(cache).resolve() / "meshwright" / "compat" / f"{recipe.id}-{recipe.digest[:12]}"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "installed").exists():
        _write_files(recipe, home, _names(home))
        for command in recipe.get:
            _run(command, home, _names(home))
        (home / "installed").touch()
    return home


def _write_files(recipe: Recipe, folder: Path, names: Mapping[str, str]) -> None:
    for name, text in recipe.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).safe_substitute(names))


def _words(command: str, names: Mapping[str, str]) -> list[str]:
    return [Template(word).safe_substitute(names) for word in shlex.split(command)]


def _run(command: str, folder: Path, names: Mapping[str, str], *, may_fail: bool = False) -> str:
    try:
        done = subprocess.run(
            _words(command, names),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=GET_SECONDS,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RecipeFailed(f"{command!r}: {error}") from error
    if done.returncode and not may_fail:
        raise RecipeFailed(f"{command!r} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


@contextmanager
def _server(recipe: Recipe, command: Sequence[str], data: Path, port: int) -> Iterator[None]:
    """Run a server in a process group of its own, which ends with this block, or after its life."""
    log = data.parent / f"{port}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["timeout", "--kill-after=5", str(recipe.life_seconds), *command],
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _await_port(process, port, log)
        yield
    finally:
        process.terminate()  # `timeout` hands it on
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_port(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RecipeFailed(
        f"{process.args!r} does not listen on {port}: {log.read_text(errors='replace')[-2000:]}"
    )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _prove(recipe: Recipe, names: Mapping[str, str], folder: Path) -> dict[str, Any]:
    options = _words(recipe.prove, names)
    place = ["--to", str(folder), "--data", str(folder / "mesh")]
    done = subprocess.run(
        [str(BIN / "mesh"), "prove", *options, "--json", *place],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=recipe.life_seconds,
    )
    said = "mesh prove " + Template(recipe.prove).safe_substitute(names | dict.fromkeys(PORTS, "PORT"))
    if recipe.refused:
        if done.returncode != 2 or recipe.refused not in done.stderr:
            raise RecipeFailed(f"{recipe.id} is not refused: {done.returncode}, {done.stderr[-2000:]}")
        line = done.stderr.strip().splitlines()[-1].removeprefix("mesh: cannot prove: ")
        for port in PORTS:
            line = line.replace(names[port], "PORT")
        return {"tier": "refused", "run": said, "figures": {}, "differs": [line]}
    if done.returncode not in (0, 1) or not done.stdout:
        raise RecipeFailed(f"{recipe.id}: mesh prove ended with {done.returncode}: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    faults, figures, broker = report["faults"], report["figures"], report.get("broker") or {}
    kills = faults.get("worker killed", 0) + faults.get("writer killed", 0)
    cuts = sum(faults.get(name, 0) for name in CUTS)
    is_long = report["settings"]["minutes"] >= GOLD_MINUTES
    is_whole = not broker or broker["messages"] > 0
    tier = "gold" if is_long else "silver" if kills and (cuts or not recipe.start) else "bronze"
    counts = {
        "minutes": report["settings"]["minutes"],
        "kills": kills,
        "cuts": cuts,
        "frozen workers": faults.get("worker frozen", 0),
        **({"failovers": faults["failover"]} if "failover" in faults else {}),
        "tasks accepted": figures["tasks_accepted"],
        "tasks ended once": figures["tasks_ended_once"],
        "steps repeated": figures["steps_repeated"],
        "dollars off": float(figures["usd_off"]),
        **({"messages": broker["messages"]} if broker else {}),
    }
    return {
        "tier": tier if report["held"] and is_whole else "broke" if not report["held"] else "not proved",
        "run": said,
        "figures": counts,
        "seed": report["settings"]["seed"],
        "meshwright": report["digest"],
        "differs": [*broker.get("notes", []), *report["complaints"]],
    }


def _call_models(recipe: Recipe, names: Mapping[str, str], folder: Path) -> dict[str, Any]:
    env = {"LITELLM_API_KEY": "none"} | {
        name: Template(value).safe_substitute(names)
        for name, value in {"LITELLM_BASE_URL": recipe.models, **recipe.env}.items()
    }
    done = subprocess.run(
        [str(BIN / "mesh"), "models", "test", "--model", "default", "--json"],
        cwd=names["data"],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=recipe.life_seconds,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise RecipeFailed(
            f"{recipe.id}: mesh models test ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    [result] = json.loads(done.stdout)
    differs = [
        f"{one['name']}: {one['behaviour']}. {one['remedy']}" for one in result["findings"] if one["remedy"]
    ]
    if not result["ok"]:
        differs.append(result["error"]["message"])
    for port in PORTS:
        differs = [line.replace(names[port], "PORT") for line in differs]
    return {
        "tier": "bronze" if result["ok"] else "broke",
        "run": "mesh models test --model default",
        "figures": {"things tried": len(result["findings"])},
        "differs": differs,
    }


def _test(recipe: Recipe, names: Mapping[str, str], folder: Path) -> dict[str, Any]:
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    env = {name: Template(value).safe_substitute(names) for name, value in recipe.env.items()}
    done = subprocess.run(
        [*command, *recipe.tests],
        cwd=ROOT,
        env=os.environ | {"REQUIRE_TIERS": "all"} | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=recipe.life_seconds,
    )
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    if suite is None:
        raise RecipeFailed(f"{recipe.id}: pytest wrote no report: {done.stdout[-2000:]}")
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    missed = counts["failures"] + counts["errors"] + counts["skipped"]
    names_missed = [
        case.get("name", "") for case in suite.iter("testcase") if any(one.tag in MISSES for one in case)
    ]
    return {
        "tier": recipe.tier if counts["tests"] and not missed else "broke",
        "run": "pytest " + " ".join(recipe.tests),
        "figures": {"tests passed": counts["tests"] - missed, **({"not passed": missed} if missed else {})},
        "differs": [f"did not pass: {name}" for name in names_missed],
    }
