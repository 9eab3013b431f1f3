"""Shared by every tier: one seed for all chance, a clean environment, and needs that are said aloud."""

import asyncio
import functools
import gc
import inspect
import logging
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from meshwright.parts.stack.machine import Ports
from meshwright.testing import ManualClock
from tests.run import CPU, SOAKING, compile_once, is_there
from tests.support import mesh_forks

pytest_plugins = [
    "tests.forks",
    "tests.support.postgres",
    "tests.support.services",
    "tests.support.unit_fixtures",
    "tests.support.contract_fixtures",
    "tests.support.integration_fixtures",
]
DEFAULT_SEED = 20_260_101
"""Of all chance, so that the same change gives the same result; `make soak` takes another each time."""
SEED = pytest.StashKey[int]()
BEGAN = pytest.StashKey[float]()
"""The processor seconds at which a test began."""
SERVICES = {"services", "own_services", "postgres", "own_postgres", "postgres_url", "dapr_bin"}
"""The fixtures that start services."""
KILLS = {"killed_mesh", "nodes"}
"""The fixtures of meshes that are killed, which takes long."""
REQUIRED = "REQUIRE_TIERS"
LONG = (
    "test_simulated_provider.py",
    "test_litellm_proxy.py",
    "test_dapr.py",
    "test_real_clients.py",
    "test_frameworks.py",
    "test_simulated_kills_dapr.py",
    "test_outages_dapr.py",
    "test_dapr_faults.py",
    "test_crash.py",
    "test_ids.py",
    "test_people.py",
    "test_benchmark_rows.py",
    "test_schedule_kills.py",
    "test_webhook_kills.py",
    "test_channel_kills.py",
    "test_purse_kills.py",
    "test_simulated_kills.py",
    "test_watchdog.py",
    "test_http_schema.py",
    "test_interrupts.py",
    "test_store_loss.py",
    "test_walks.py",
)
"""Files of tests that take longest: they start first, and each test may run in another process."""
SPREAD = ("test_claims.py", "test_workers.py", "test_broken_off.py", "test_sizes.py", "test_turns.py")
"""Files whose tests run on every store: they start next, and are spread too."""
WHOLE = (
    "test_extras.py",
    "test_secrets.py",
    "test_lifecycle.py",
    "test_embedded_faults.py",
    "test_amplification.py",
    "test_other_shells.py",
    "test_mqtt_flood.py",
    "test_framework_features.py",
    "test_dapr_maintenance.py",
    "test_client_kills.py",
    "test_page_night.py",
    "test_third_party.py",
    "test_newcomer.py",
    "test_typed_code.py",
    "test_proving.py",
    "test_large_tasks.py",
)
"""Files that take long and are not spread, since their tests share what is dear to make: they start next."""
FIRST = {name: place for place, name in enumerate((*LONG, *SPREAD, *WHOLE))}
ALARM_MARGIN_SECONDS = (
    60  # an async test ends so long before the timeout plugin's alarm, which would break its report off
)
# A deadline would measure the machine's other work.
hypothesis.settings.register_profile("mesh", deadline=None)
hypothesis.settings.load_profile("mesh")

compile_once()
gc.disable()  # until all tests are collected: a quarter of that time went to looking for garbage among them


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--near", action="store_true", help="leave out tests marked far, and all with a service")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its seed
def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEED] = seed_of(os.environ.get("MESH_TEST_SEED", ""))
    config.option.hypothesis_seed = config.option.hypothesis_seed or str(config.stash[SEED])
    from tests.support.services import GIVEN, HANDED_ON  # pytest has to import its plugins itself

    required = os.environ.get(REQUIRED)
    forget_the_users_settings()
    # The processes that run tests side by side start from this environment.
    os.environ.update({f"{HANDED_ON}{name}": value for name, value in GIVEN.items()})
    os.environ["MESH_TEST_SEED"] = str(config.stash[SEED])
    if required:
        os.environ[REQUIRED] = required
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; programs inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    tiers = {Path(path).name for path in session.config.args}
    if session.config.getoption("forks") and tiers & {"integration", "acceptance"}:
        mesh_forks.start_program()  # it imports beside the collection, and forks share it


@pytest.fixture(autouse=True)
def log_handlers() -> Generator[None]:
    """Log as before once a test ends: commands that it runs in this process log to a folder of its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def seed_of(setting: str) -> int:
    """The seed that MESH_TEST_SEED asks for: a number, a `random` one, or by default always the same."""
    return random.SystemRandom().randrange(2**32) if setting == "random" else int(setting or DEFAULT_SEED)


def forget_the_users_settings() -> None:
    """No test may find a key or a server of the person who runs it, and so none can call a paid model.

    Settings of the tests themselves (`MESH_TEST_...`) stay.
    """
    for name in [name for name in os.environ if not name.startswith("MESH_TEST_")]:
        if name.startswith(("MESH_", "LITELLM_", "OTEL_")) or name.endswith("_API_KEY"):
            del os.environ[name]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the long files first, and mix the tiers after them: some wait, and some compute."""
    from tests.forks import GROUP  # pytest has to import its plugins itself

    leave_out(config, items, lambda item: not SOAKING and item.get_closest_marker("soak") is not None)
    leave_out(config, items, lambda item: config.getoption("near") and not is_near(item))
    totals, passed = Counter(map(tier_of, items)), Counter[str]()
    share: dict[Path, float] = {}
    for item in items:
        share.setdefault(item.path, passed[tier_of(item)] / totals[tier_of(item)])
        passed[tier_of(item)] += 1
        item.stash[GROUP] = item.nodeid if item.path.name in (*LONG, *SPREAD) else str(item.path)
    items.sort(key=lambda item: (FIRST.get(item.path.name, len(FIRST)), share[item.path]))


def leave_out(
    config: pytest.Config, items: list[pytest.Item], condition: Callable[[pytest.Item], bool]
) -> None:
    config.hook.pytest_deselected(items=[item for item in items if condition(item)])
    items[:] = [item for item in items if not condition(item)]


def is_near(item: pytest.Item) -> bool:
    """Whether a test is quick and needs no service, by its marks, its fixtures and the store it runs on."""
    parameters = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    stores = {str(parameters.get(name)).partition("-")[0] for name in ("harness", "location")}
    fixtures = {*getattr(item, "fixturenames", ())}
    is_far = item.get_closest_marker("far") or fixtures & (SERVICES | KILLS) or stores & {"postgres", "dapr"}
    return not is_far


def tier_of(item: pytest.Item) -> str:
    return item.path.parent.name


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[SEED]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        seed = terminalreporter.config.stash[SEED]
        terminalreporter.write_line(f"the same chances again: MESH_TEST_SEED={seed}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if not is_there(program)]
        if missing and os.environ.get(REQUIRED) == "all":
            pytest.fail(f"needs {', '.join(missing)} on PATH, and every tier is required", pytrace=False)
        if missing:
            pytest.skip(f"needs {', '.join(missing)} on PATH")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[BEGAN] = processor_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    item.user_properties.append((CPU, f"{processor_seconds() - item.stash[BEGAN]:.3f}"))


def processor_seconds() -> float:
    """The seconds of this process, of its children, and of those that its children have seen end."""
    times = os.times()
    ended = times.user + times.system + times.children_user + times.children_system
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    live = sum(map(seconds_of, children.read_text().split() if children.exists() else ()))
    return ended + live + mesh_forks.processor_seconds()


def seconds_of(pid: str) -> float:
    """The processor seconds of a process and of its ended children, 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace halves of characters in what a test has logged: they cannot be sent from process to process."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """End an async test that hangs from within its loop: the plugin's alarm would leave the loop stuck."""
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        marker = pyfuncitem.get_closest_marker("timeout")
        usual = pyfuncitem.config.getoption("timeout") or pyfuncitem.config.getini("timeout")
        seconds = float(marker.args[0] if marker else usual)
        pyfuncitem.obj = bounded(pyfuncitem.obj, max(1, seconds - ALARM_MARGIN_SECONDS))
    return (yield)


def bounded(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        pass_by_events_of_closed_loops(asyncio.get_running_loop())
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return run


def pass_by_events_of_closed_loops(loop: asyncio.AbstractEventLoop) -> None:
    """Leave out an error that gRPC raises in any loop: its poller has an event of an earlier test's."""
    handler = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        is_of_another = "PollerCompletionQueue" in context.get("message", "")
        if is_of_another and str(context.get("exception")) == "Event loop is closed":
            return
        if handler is None:
            loop.default_exception_handler(context)
        else:
            handler(loop, context)

    loop.set_exception_handler(handle)


@pytest.fixture
def ports() -> Generator[Ports]:
    """Ports that nobody else is given until the test ends."""
    held = Ports()
    yield held
    held.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The session's seed; `MESH_TEST_SEED` repeats one."""
    return pytestconfig.stash[SEED]


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Chance of this test's own: the same for the same seed, whatever else runs before it."""
    return random.Random(f"{seed}:{request.node.nodeid}")
