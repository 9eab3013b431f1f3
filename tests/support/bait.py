"""The bait of all break-outs, and the program that makes them in a box."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from meshwright.agents.sandbox.choice import ATTEMPTS, MODE, Bait
from meshwright.agents.sandbox.execution import Interpreter

_TIME = 1_000_000_000
_BREAK_OUTS = Path(__file__).with_name("break_outs.py").read_text()
# A box does not see the mesh's packages, so `break_outs` gets the module that it imports as text.
SOURCE = f"""
import sys, types
_NAME = "meshwright.agents.sandbox.attempts"
module = sys.modules[_NAME] = types.ModuleType(_NAME)
exec({ATTEMPTS!r}, vars(module))
exec({_BREAK_OUTS!r}, {{"__name__": "__main__"}})
"""


class WholeBait(Bait):
    """Shows the effects of all break-outs, also of those that no machine's own box is tried with."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        families = (socket.AF_INET, socket.AF_UNIX)
        self._datagrams = [socket.socket(family, socket.SOCK_DGRAM) for family in families]
        self._before: tuple[object, ...] = ()

    async def start(self, interpreter: Interpreter) -> dict[str, Any]:
        description = await super().start(interpreter)
        deletable = self.folder / "deletable"
        deletable.write_text(self.marker)
        for file in (self.secret, self.readable, deletable):
            os.utime(file, (_TIME, _TIME))
        addresses: tuple[Any, ...] = (("127.0.0.1", 0), str(self.folder / "datagrams"))
        for receiver, address in zip(self._datagrams, addresses, strict=True):
            receiver.setblocking(False)
            receiver.bind(address)
        self._before = self._state()
        return description | {"udp": self._datagrams[0].getsockname()[1]}

    async def affected(self) -> set[str]:
        for receiver in self._datagrams:
            with suppress(BlockingIOError):
                self.reached.add(receiver.recv(100).decode().strip())
        return await super().affected()

    def effects(self) -> Mapping[str, Callable[[], bool]]:
        after = self._state()
        names = ("limit_others", "slow_others", "pin_others")
        is_changed = {
            name: lambda number=number: self._before[number] != after[number]
            for number, name in enumerate(names)
        }
        return {
            **super().effects(),
            **is_changed,
            "truncate_outside": lambda: not self.secret.read_text(),
            "delete_outside": lambda: not (self.folder / "deletable").exists(),
            "change_modes_outside": lambda: self.secret.stat().st_mode & 0o777 != MODE,
            "write_what_it_reads": lambda: self.readable.read_text() != self.marker,
            "change_times_of_what_it_reads": lambda: self.readable.stat().st_mtime == 1,
            "write_through_a_link": lambda: (self.folder / "linked").exists(),
            "move_out": lambda: (self.folder / "moved").exists(),
        }

    def _state(self) -> tuple[object, ...]:
        process = self.processes[0].pid
        limit = resource.prlimit(process, resource.RLIMIT_NOFILE)
        return limit, os.getpriority(os.PRIO_PROCESS, process), os.sched_getaffinity(process)

    async def stop(self) -> None:
        for receiver in self._datagrams:
            receiver.close()
        await super().stop()
