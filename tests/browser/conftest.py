from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import launched


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a module; each page is in a context of its own.

    Not one a process: what drives it keeps an event loop running in this thread, beside which no async test can run.
    """
    with launched() as found:
        yield found
