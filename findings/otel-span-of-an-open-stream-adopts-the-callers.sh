#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (PyPI), Python 3.11. 2026-11-28.
# An async generator opens a span by `start_as_current_span`, and yields the pieces of a reply within it. While it is
# suspended its span is the current one of the caller too, so that the caller's next spans become its children. If the
# caller leaves the loop early, the span stays current for the rest of the task, and what follows is below it.
# Most would expect: a `with` block in one function does not rule the code of another; the specification has the context
# belong to the execution unit that made it current. A plain coroutine with the same `with` does what is expected.
# Seen: run: none; chat: run; tool: chat; after a whole stream: run; chat: run; after a stream left early: chat
# Why an agent runtime meets it: models are streamed, and agents call tools and other agents while they read. The trace
# then shows a tool as part of a call of the model, with its time and cost, and everything behind a stream that was left
# early (an answer was complete, a filter ended it) as part of that one call.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check opentelemetry-sdk==1.45.2
cat > t.py <<'P'
import asyncio
import logging

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

logging.disable()
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("agent")


async def reply():
    with tracer.start_as_current_span("chat"):
        yield "Let me "
        yield "look."


def work(name):
    with tracer.start_as_current_span(name):
        pass


async def main():
    with tracer.start_as_current_span("run"):
        async for piece in reply():
            if piece == "look.":
                work("tool")
        work("after a whole stream")
        stream = reply()
        async for _ in stream:
            break
        work("after a stream left early")
        await stream.aclose()


asyncio.run(main())
spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
names = {span.context.span_id: span.name for span in spans}
print("; ".join(f"{span.name}: {names[span.parent.span_id] if span.parent else 'none'}" for span in spans))
P
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="run: none; chat: run; tool: chat; after a whole stream: run; chat: run; after a stream left early: chat"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
