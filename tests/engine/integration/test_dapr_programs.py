"""Programs that tools start in a worker on Dapr, whose process speaks gRPC meanwhile."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from meshwright.agents.sandbox.process import run

PROGRAMS = 300


async def start_programs() -> None:
    """Start programs one after another beside calls by gRPC; each has to end well."""
    import meshwright.engine.stores.dapr  # noqa: F401, I001 - first, as in a worker

    import grpc.aio

    async def echo(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
    await server.start()
    call = grpc.aio.insecure_channel(f"127.0.0.1:{port}").unary_unary("/test.Test/Echo")

    async def keep_calling() -> None:
        while True:
            await call(b"x" * 100)

    callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
    for _ in range(PROGRAMS):
        ended = await run(
            ["git", "--version"],
            folder=Path("/"),
            environment={"PATH": os.environ["PATH"]},
            timeout_seconds=60,
            max_output_bytes=1_000,
        )
        assert ended.output.startswith("git version "), ended
    for caller in callers:
        caller.cancel()
    await server.stop(None)


def test_programs_that_are_started_beside_grpc_do_not_crash() -> None:
    code = "import uvloop; from tests.engine.integration.test_dapr_programs import start_programs; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}uvloop.run(start_programs())"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
