"""Counts calls of functions on this thread."""

from __future__ import annotations

import sys
from types import FrameType, ModuleType


class FunctionCalls:
    """The number of calls in a block: of Python and of C, or of the functions of one module or package."""

    def __init__(self, module: ModuleType | None = None) -> None:
        self.count = 0
        self._files = None if module is None else str(module.__file__).removesuffix("__init__.py")

    def _add(self, frame: FrameType, event: str, argument: object) -> None:
        if self._files is None:
            self.count += event in ("call", "c_call")
        else:
            self.count += event == "call" and frame.f_code.co_filename.startswith(self._files)

    def __enter__(self) -> FunctionCalls:
        sys.setprofile(self._add)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
