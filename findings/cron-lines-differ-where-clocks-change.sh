#!/usr/bin/env bash
# croniter 7.0.0, cronsim 2.8, APScheduler 3.11.3 (PyPI), cron-parser 5.10.6, croner 11.0.1 (npm). 2026-11-28.
# `30 2 * * *` in Europe/Berlin, where 02:30 is skipped on 28 March 2027 and comes twice on 31 October. In March croniter,
# cronsim and croner run it at 03:00, APScheduler and cron-parser at 03:30. In October croniter and APScheduler run it
# twice, the others once. `*/30 2 * * *` in March: cron-parser runs it twice behind the gap, croniter and APScheduler
# once, cronsim and croner not at all; in October cron-parser runs it twice, the others four times.
# Most would expect: a daily job runs once a day, and one line means one thing. Debian's cron(8) runs a job with a fixed
# time once, soon after the gap, and not again as the hour is repeated; jobs with * in the hour or minute by the clock.
# Seen: as the table below, in UTC
# Why an agent runtime meets it: invoices, reports and nightly repairs are scheduled for the night in people's zones; on
# two nights a year one is made twice, and a move from one library to another changes which.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check croniter==7.0.0 cronsim==2.8 apscheduler==3.11.3 tzdata==2026.1
npm init -y > /dev/null
npm install --silent --no-fund --no-audit cron-parser@5.10.6 croner@11.0.1
cat > t.py <<'P'
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim

ZONE, line = ZoneInfo("Europe/Berlin"), sys.argv[1]


def apscheduler(start):
    """As its scheduler asks: minute by minute, with the time that it is."""
    trigger = CronTrigger.from_crontab(line, timezone=ZONE)
    due = trigger.get_next_fire_time(None, start)
    for minute in range(25 * 60):
        now = start.astimezone(UTC) + timedelta(minutes=minute)
        while due <= now:
            yield due
            due = trigger.get_next_fire_time(due, now)


for day in (datetime(2027, 3, 28, tzinfo=ZONE), datetime(2027, 10, 31, tzinfo=ZONE)):
    schedules = {
        "croniter": croniter(line, day, ret_type=datetime),
        "cronsim": CronSim(line, day),
        "APScheduler": apscheduler(day),
    }
    for name, schedule in schedules.items():
        times = []
        for due in schedule:
            due = due.astimezone(UTC)
            if due >= day.astimezone(UTC) + timedelta(hours=12):
                break
            times.append(f"{due:%H:%M}")
        print(f"{day:%d %B}: {name}: {' '.join(times) or 'none'}")
P
cat > t.js <<'J'
const { CronExpressionParser } = require("cron-parser");
const { Cron } = require("croner");
const line = process.argv[2];
for (const [day, begins] of [["28 March", "2027-03-27T23:00:00Z"], ["31 October", "2027-10-30T22:00:00Z"]]) {
  const start = new Date(begins);
  const schedule = CronExpressionParser.parse(line, { currentDate: start, tz: "Europe/Berlin" });
  const times = { "cron-parser": schedule.take(9).map((due) => due.toDate()) };
  times.croner = new Cron(line, { timezone: "Europe/Berlin" }).nextRuns(9, start);
  for (const [name, dues] of Object.entries(times)) {
    const shown = dues.filter((due) => due - start < 12 * 3600e3).map((due) => due.toISOString().slice(11, 16));
    console.log(`${day}: ${name}: ${shown.join(" ") || "none"}`);
  }
}
J
seen=
for line in '30 2 * * *' '*/30 2 * * *'; do
    seen="$seen$line
$(timeout 60 v/bin/python t.py "$line")
$(timeout 60 node t.js "$line")
"
done
echo "seen:"; echo "$seen"
expected="30 2 * * *
28 March: croniter: 01:00
28 March: cronsim: 01:00
28 March: APScheduler: 01:30
31 October: croniter: 00:30 01:30
31 October: cronsim: 00:30
31 October: APScheduler: 00:30 01:30
28 March: cron-parser: 01:30
28 March: croner: 01:00
31 October: cron-parser: 00:30
31 October: croner: 00:30
*/30 2 * * *
28 March: croniter: 01:00
28 March: cronsim: none
28 March: APScheduler: 01:00
31 October: croniter: 00:00 00:30 01:00 01:30
31 October: cronsim: 00:00 00:30 01:00 01:30
31 October: APScheduler: 00:00 00:30 01:00 01:30
28 March: cron-parser: 01:00 01:30
28 March: croner: none
31 October: cron-parser: 00:00 00:30
31 October: croner: 00:00 00:30 01:00 01:30
"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
