"""A client whose server is mocked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from dify_batch.dify.client import DifyClient
from tests.dify.client.parts import BASE, KEY


@pytest.fixture
def dify() -> respx.Router:
    return respx.Router(base_url=BASE, assert_all_called=False)


@pytest.fixture
async def client(dify: respx.Router) -> AsyncIterator[DifyClient]:
    # respx patches httpcore by default, which this client does not use: it is mounted as the transport.
    async with DifyClient(BASE, KEY, transport=httpx.MockTransport(dify.async_handler)) as mocked:
        yield mocked
