from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import launched


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser a process; each page is in a context of its own."""
    with launched() as found:
        yield found
