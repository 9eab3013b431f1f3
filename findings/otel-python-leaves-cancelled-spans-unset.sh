#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (PyPI). 2026-11-29.
# `start_as_current_span` records an exception and sets the status ERROR. It does so for subclasses of Exception alone:
# work that `asyncio.timeout` or a cancel ends leaves by CancelledError, which is none, and its span has no event and
# the status UNSET, as one that succeeded. Only the span outside of the timeout, if there is one, has the TimeoutError.
# Most would expect: what did not get to its end is no success; record_exception and set_status_on_exception are on.
# Seen: raised: ERROR with exception; timed out: UNSET without; cancelled: UNSET without; around the timeout: ERROR with exception
# Why an agent runtime meets it: each tool and call of a model has a timeout, and cancels are its daily work. The slowest
# calls, which a dashboard is there to show, count as calls that went well, and error rates fall as timeouts rise.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("test")


async def work(name, seconds):
    with tracer.start_as_current_span(name):
        await asyncio.sleep(seconds)
        raise ValueError("no stock")


async def time_out():
    with tracer.start_as_current_span("around the timeout"):
        async with asyncio.timeout(0.05):
            await work("timed out", 60)


async def main():
    await asyncio.gather(work("raised", 0), return_exceptions=True)
    await asyncio.gather(time_out(), return_exceptions=True)
    task = asyncio.create_task(work("cancelled", 60))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


asyncio.run(main())
spans = {span.name: span for span in exporter.get_finished_spans()}
print(
    "; ".join(
        f"{name}: {spans[name].status.status_code.name} with{'' if spans[name].events else 'out'}"
        + " exception" * bool(spans[name].events)
        for name in ("raised", "timed out", "cancelled", "around the timeout")
    )
)
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check opentelemetry-sdk==1.45.2
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="raised: ERROR with exception; timed out: UNSET without; cancelled: UNSET without"
if [ "$seen" = "$expected; around the timeout: ERROR with exception" ]; then echo "as stated"; else echo "changed"; exit 1; fi
