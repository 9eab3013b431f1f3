#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (PyPI), @opentelemetry/sdk-trace-base 2.12.1 (npm). 2026-11-28.
# TraceIdRatioBased with 0.1, asked about the same 2,000 random trace ids: Python compares the last 8 bytes of an id, and
# JavaScript the exclusive or of its four words. Each keeps about a tenth, and they agree on about a hundredth, as often
# as by chance.
# Most would expect: the same decision for the same id. The specification wants a sampler with a higher ratio to keep
# what one with a lower ratio keeps, and has the id decide, so that services agree without talking.
# Seen: Python 186, JavaScript 204, both 21; with 0.2 JavaScript keeps 44 of Python's 186
# Why an agent runtime meets it: a message queue, a schedule or a person's answer starts a process in another language,
# which takes the trace id along and decides again. Nine traces of ten that one side keeps lack the other side, and long
# runs look as if their tools or their callers had never been.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check opentelemetry-sdk==1.45.2
npm init -y > /dev/null
npm install --silent --no-fund --no-audit @opentelemetry/api@1.9.0 @opentelemetry/sdk-trace-base@2.12.1
cat > t.py <<'P'
import json
import random

from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

chance = random.Random(1)
ids = [f"{chance.getrandbits(128):032x}" for _ in range(2000)]
sampler = TraceIdRatioBased(0.1)
kept = [trace for trace in ids if sampler.should_sample(None, int(trace, 16), "run").decision.is_sampled()]
print(json.dumps({"ids": ids, "kept": kept}))
P
cat > t.js <<'J'
const { SamplingDecision, TraceIdRatioBasedSampler } = require("@opentelemetry/sdk-trace-base");
const { ids, kept } = JSON.parse(require("fs").readFileSync("ids.json", "utf8"));
const sampled = (ratio, traces) => {
  const sampler = new TraceIdRatioBasedSampler(ratio);
  return traces.filter((id) => sampler.shouldSample(undefined, id).decision === SamplingDecision.RECORD_AND_SAMPLED);
};
const own = sampled(0.1, ids).length;
const both = sampled(0.1, kept).length;
console.log(`Python ${kept.length}, JavaScript ${own}, both ${both}; with 0.2 ${sampled(0.2, kept).length}`);
J
timeout 60 v/bin/python t.py > ids.json
seen=$(timeout 60 node t.js)
echo "seen: $seen"
expected="Python 186, JavaScript 204, both 21; with 0.2 44"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
