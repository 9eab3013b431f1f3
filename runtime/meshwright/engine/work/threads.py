"""The threads in which code of a run asks for steps: whether they still go on, or rest."""

from __future__ import annotations

from pathlib import Path

_TASKS = Path("/proc/self/task")


class CodeThreads:
    """Threads of one run, by the ids that the system gives them (`threading.get_native_id()`)."""

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._ids)

    def add(self, native_id: int) -> None:
        """Note a thread of the run."""
        self._ids.add(native_id)

    def have_moved(self, before: tuple[bytes, ...]) -> tuple[bool, tuple[bytes, ...]]:
        """Whether one has run since it was looked at `before`, or waits for a processor; and the look now.

        One that waits for the interpreter's lock runs for a moment again and again. Systems other than Linux
        do not tell, and all rest there.
        """
        now: list[bytes] = []
        runs = False
        for native_id in sorted(self._ids):
            place = _TASKS / str(native_id)
            try:
                now.append((place / "schedstat").read_bytes())
                runs = runs or (place / "stat").read_bytes().rpartition(b") ")[2][:1] == b"R"
            except OSError:  # it has ended
                self._ids.discard(native_id)
        return runs or tuple(now) != before, tuple(now)
