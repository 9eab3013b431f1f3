"""Lines: replies that have to arrive in order, such as those of one conversation."""

from __future__ import annotations

import asyncio


class Lines:
    """Which replies of each line are still to arrive, by the numbers of their events."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, bool]] = {}  # the number, and whether it waits for another try
        self._moved = asyncio.Event()

    def join(self, line: str, seq: int, *, waits: bool = False) -> None:
        """Take a place in a line, or say that the reply there `waits` for another try."""
        self._open.setdefault(line, {})[seq] = waits
        self._tell()

    def leave(self, line: str, seq: int) -> None:
        """Give the place up: the next may go."""
        places = self._open.get(line, {})
        places.pop(seq, None)
        if not places:
            self._open.pop(line, None)
        self._tell()

    async def comes_first(self, line: str, seq: int, *, patient: bool = False) -> bool:
        """Wait until no earlier reply is left; unless `patient`, False if one of them waits for a retry."""
        while True:
            earlier = [waits for number, waits in self._open.get(line, {}).items() if number < seq]
            if not earlier:
                return True
            if any(earlier) and not patient:
                return False
            await self._moved.wait()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
