"""A server that is restarted, for recipes.

`python restarts.py EVERY COMMAND...` ends it by SIGTERM each EVERY seconds, and starts it again a second
later. SIGTERM ends both.
"""

import signal
import subprocess
import sys
import time

AWAY_SECONDS = 1


def main(every: str, *command: str) -> None:
    """Run the command until SIGTERM."""
    while True:
        process = subprocess.Popen(command)
        try:
            time.sleep(float(every))
        finally:
            process.terminate()
            process.wait()
        print("restarted", flush=True)
        time.sleep(AWAY_SECONDS)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(*sys.argv[1:])
