#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (PyPI) and @opentelemetry/sdk-trace-base 2.12.1 (npm), default limits. 2026-11-28.
# A span holds 128 attributes. Beyond that Python's SDK throws the oldest away for each new one, and JavaScript's keeps
# the first 128 and throws the new ones away. The specification asks for the latter.
# Most would expect: what a span was started with stays, in each language.
# Seen: Python: 128 kept, 74 dropped, operation None, input.199 yes; JavaScript: 128 kept, 74 dropped, operation chat, input.199 no
# Why an agent runtime meets it: conventions that write each message of a conversation as attributes of its own
# (llm.input_messages.N...) pass 128 in a long run. The attributes that were set first name the operation, the model
# and the agent: without them a back end no longer takes the span for a call of a model, and its tokens and cost are
# those of nobody. It is the long, dear calls that go missing.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check opentelemetry-sdk==1.45.2
npm install --silent --no-audit --no-fund @opentelemetry/sdk-trace-base@2.12.1 @opentelemetry/api@1.9.1
cat > t.py <<'P'
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
first = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
span = provider.get_tracer("t").start_span("chat m", attributes=first)
for number in range(200):
    span.set_attribute(f"input.{number}", "words")
span.end()
span = spans.get_finished_spans()[0]
last = "yes" if "input.199" in span.attributes else "no"
operation = span.attributes.get("gen_ai.operation.name")
print(f"{len(span.attributes)} kept, {span.dropped_attributes} dropped, operation {operation}, input.199 {last}")
P
cat > t.cjs <<'J'
const { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = require("@opentelemetry/sdk-trace-base");
const spans = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] });
const attributes = { "gen_ai.operation.name": "chat", "gen_ai.request.model": "m" };
const span = provider.getTracer("t").startSpan("chat m", { attributes });
for (let number = 0; number < 200; number++) span.setAttribute(`input.${number}`, "words");
span.end();
const kept = spans.getFinishedSpans()[0].attributes;
const dropped = spans.getFinishedSpans()[0].droppedAttributesCount;
const last = "input.199" in kept ? "yes" : "no";
console.log(`${Object.keys(kept).length} kept, ${dropped} dropped, operation ${kept["gen_ai.operation.name"]}, input.199 ${last}`);
J
seen="Python: $(v/bin/python t.py 2>/dev/null); JavaScript: $(node t.cjs)"
echo "seen: $seen"
expected="Python: 128 kept, 74 dropped, operation None, input.199 yes"
expected="$expected; JavaScript: 128 kept, 74 dropped, operation chat, input.199 no"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
