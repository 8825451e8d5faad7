"""`--offline`: a transport that refuses every request."""

from __future__ import annotations

import httpx


class NoNetwork(httpx.AsyncBaseTransport):
    """Replaces the network. Storage is never asked either, because its URLs come from the API."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise `httpx.ConnectError`."""
        raise httpx.ConnectError("the mount is offline by its own option", request=request)
