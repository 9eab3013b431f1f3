#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (PyPI), @opentelemetry/core 2.12.1 (npm), go.opentelemetry.io/otel 1.47.0 (Go). 2026-11-29.
# All three propagate baggage by the header of W3C. Python writes and reads it as a form: a space becomes `+`, which
# JavaScript and Go read as a plus. Go writes a plus as it is, which the format allows, and Python reads it as a space, which it strips at the front.
# Nothing warns; each language alone gets back what it sent.
# Most would expect: percent-encoding, which W3C's Baggage asks for, in which a plus is a plus.
# Seen: python to python Ann Lee/+49 30; python to js Ann+Lee/+49+30; python to go Ann+Lee/+49+30;
# go to python Ann Lee/49 30; go to js Ann Lee/+49 30; js to python Ann Lee/+49 30
# Why an agent runtime meets it: a tenant, a user, a thread or a budget goes with a task as baggage through agents in
# several languages. Costs are booked on a tenant that does not exist, and a filter by user misses half of the traces.
# Reported as open-telemetry/opentelemetry-python#5566, open.
set -euo pipefail
dir=$(mktemp -d); trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check opentelemetry-sdk==1.45.2
npm init -y > /dev/null
npm i --no-audit --no-fund --silent @opentelemetry/api@1.9.1 @opentelemetry/core@2.12.1
cat > t.py <<'P'
import sys

from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator

propagator = W3CBaggagePropagator()
if sys.argv[1:]:
    values = baggage.get_all(propagator.extract({"baggage": sys.argv[1]}, context.Context()))
    print(f"{values['user']}/{values['tel']}")
else:
    carrier, sent = {}, baggage.set_baggage("user", "Ann Lee", context.Context())
    propagator.inject(carrier, baggage.set_baggage("tel", "+49 30", sent))
    print(carrier["baggage"])
P
cat > t.js <<'J'
const { W3CBaggagePropagator } = require('@opentelemetry/core')
const { propagation, ROOT_CONTEXT, defaultTextMapGetter, defaultTextMapSetter } = require('@opentelemetry/api')
const propagator = new W3CBaggagePropagator()
const header = process.argv[2]
if (header) {
  const got = propagation.getBaggage(propagator.extract(ROOT_CONTEXT, { baggage: header }, defaultTextMapGetter))
  console.log(`${got.getEntry('user').value}/${got.getEntry('tel').value}`)
} else {
  const carrier = {}
  const sent = propagation.createBaggage({ user: { value: 'Ann Lee' }, tel: { value: '+49 30' } })
  propagator.inject(propagation.setBaggage(ROOT_CONTEXT, sent), carrier, defaultTextMapSetter)
  console.log(carrier.baggage)
}
J
mkdir g
cat > g/main.go <<'G'
package main

import (
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
)

func main() {
	carrier := propagation.MapCarrier{}
	if len(os.Args) > 1 {
		carrier["baggage"] = os.Args[1]
		got := baggage.FromContext(propagation.Baggage{}.Extract(context.Background(), carrier))
		fmt.Printf("%s/%s\n", got.Member("user").Value(), got.Member("tel").Value())
		return
	}
	user, _ := baggage.NewMemberRaw("user", "Ann Lee")
	tel, _ := baggage.NewMemberRaw("tel", "+49 30")
	sent, _ := baggage.New(user, tel)
	propagation.Baggage{}.Inject(baggage.ContextWithBaggage(context.Background(), sent), carrier)
	fmt.Println(carrier["baggage"])
}
G
(cd g && go mod init t 2> /dev/null && go get -d go.opentelemetry.io/otel@v1.47.0 2> /dev/null && go build -o ../t-go .)
echo "$(v/bin/pip list --disable-pip-version-check 2>/dev/null | grep opentelemetry-sdk), $(npm ls --depth 0 | grep -o 'core@.*'), $(grep -o 'otel v.*' g/go.mod)"
from_python=$(v/bin/python t.py) from_go=$(./t-go) from_js=$(node t.js)
echo "headers: python $from_python, go $from_go, js $from_js"
seen="python to python $(v/bin/python t.py "$from_python"); python to js $(node t.js "$from_python"); \
python to go $(./t-go "$from_python"); go to python $(v/bin/python t.py "$from_go"); \
go to js $(node t.js "$from_go"); js to python $(v/bin/python t.py "$from_js")"
echo "seen: $seen"
expected="python to python Ann Lee/+49 30; python to js Ann+Lee/+49+30; python to go Ann+Lee/+49+30; \
go to python Ann Lee/49 30; go to js Ann Lee/+49 30; js to python Ann Lee/+49 30"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
