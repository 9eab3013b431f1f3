#!/usr/bin/env bash
# croniter 7.0.0, cronsim 2.8, APScheduler 3.11.3 (PyPI), cron-parser 5.10.6, croner 11.0.1 (npm). 2026-11-28.
# `0 9 */10 * 1` in January 2027, of five libraries that read crontab lines: croniter, cron-parser and croner run it on
# seven days (each tenth day or Monday), cronsim on one (a tenth day that is a Monday), and APScheduler's from_crontab on
# none (both, where 1 is Tuesday). With 1-31/10 in place of */10 cronsim joins the first three.
# Most would expect: one line, one schedule. Debian's crontab(5) says: either of the two day fields matches unless one of
# them begins with *, and 1 is Monday; cron itself runs it on the 11th alone.
# Seen: croniter, cron-parser, croner: 1 4 11 18 21 25 31; cronsim: 11; APScheduler: none;
#   with 1-31/10: cronsim 1 4 11 18 21 25 31, the others as before
# Why an agent runtime meets it: schedules move from crontab and Kubernetes to the runtime, and models write them. Seven
# reports, mails or payments go out where one was meant, or never one.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check croniter==7.0.0 cronsim==2.8 apscheduler==3.11.3
npm init -y > /dev/null
npm install --silent --no-fund --no-audit cron-parser@5.10.6 croner@11.0.1
cat > t.py <<'P'
import sys
from datetime import UTC, datetime

from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim

START, END = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)
line = sys.argv[1]


def apscheduler():
    trigger = CronTrigger.from_crontab(line, timezone=UTC)
    due = trigger.get_next_fire_time(None, START)
    while due:
        yield due
        due = trigger.get_next_fire_time(due, due)


schedules = {
    "croniter": croniter(line, START, ret_type=datetime),
    "cronsim": CronSim(line, START),
    "APScheduler": apscheduler(),
}
for name, schedule in schedules.items():
    days = []
    for due in schedule:
        if due >= END:
            break
        days.append(str(due.day))
    print(f"{name}: {' '.join(days) or 'none'}")
P
cat > t.js <<'J'
const { CronExpressionParser } = require("cron-parser");
const { Cron } = require("croner");
const [line, start, end] = [process.argv[2], new Date("2027-01-01T00:00:00Z"), new Date("2027-02-01T00:00:00Z")];
const schedule = CronExpressionParser.parse(line, { currentDate: start, tz: "UTC" });
const times = { "cron-parser": schedule.take(40).map((due) => due.toDate()) };
times.croner = new Cron(line, { timezone: "UTC" }).nextRuns(40, start);
for (const [name, dues] of Object.entries(times))
  console.log(`${name}: ${dues.filter((due) => due < end).map((due) => due.getUTCDate()).join(" ") || "none"}`);
J
seen=
for line in '0 9 */10 * 1' '0 9 1-31/10 * 1'; do
    seen="$seen$line
$(timeout 60 v/bin/python t.py "$line")
$(timeout 60 node t.js "$line")
"
done
echo "seen:"; echo "$seen"
either="1 4 11 18 21 25 31"
others="APScheduler: none
cron-parser: $either
croner: $either
"
expected="0 9 */10 * 1
croniter: $either
cronsim: 11
${others}0 9 1-31/10 * 1
croniter: $either
cronsim: $either
$others"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
