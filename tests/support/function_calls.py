"""Counts calls of functions, of Python and of C, on this thread."""

from __future__ import annotations

import sys


class FunctionCalls:
    """The number of calls in a block."""

    def __init__(self) -> None:
        self.count = 0

    def _add(self, frame: object, event: str, argument: object) -> None:
        self.count += event in ("call", "c_call")

    def __enter__(self) -> FunctionCalls:
        sys.setprofile(self._add)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
