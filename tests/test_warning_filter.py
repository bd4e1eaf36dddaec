"""Warnings of other libraries: suppressed while any thread is inside, and restored afterwards."""

from __future__ import annotations

import warnings
from contextlib import ExitStack

from workbench.warning_filter import suppress_warnings


def test_warnings_are_silent_inside_and_restored_afterwards() -> None:
    before = warnings.filters[:]
    first, second = ExitStack(), ExitStack()
    first.enter_context(suppress_warnings())
    second.enter_context(suppress_warnings())
    first.close()  # out of order, like threads
    with warnings.catch_warnings(record=True) as heard:
        warnings.warn("of odd metadata", stacklevel=1)
    second.close()
    assert (heard, warnings.filters) == ([], before)
