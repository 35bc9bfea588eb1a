"""A small HTTP proxy, run as a process: plain requests and CONNECT. Prints its port, then one line for each request:
method, target and Proxy-Authorization ("-" without one).

    python proxy_process.py [--only CREDENTIALS] [--refuse]

--only: other credentials are answered with 407. --refuse: CONNECT is answered with 403.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    credentials = headers.get("proxy-authorization", "-")
    print(method, target, credentials, flush=True)
    if "--only" in sys.argv and credentials != sys.argv[sys.argv.index("--only") + 1]:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
    elif method == "CONNECT" and "--refuse" in sys.argv:
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
    else:
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            kept = [line for line in lines if not line.lower().startswith(("proxy-authorization", "connection"))]
            up_writer.write("\r\n".join([f"{method} {path} {version}", *kept]).encode("latin-1"))
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        return
    await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
