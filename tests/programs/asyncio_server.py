"""A small HTTP/1.1 server with keep-alive on asyncio: it counts requests, in memory."""

import asyncio
import sys

count = 0


async def serve(reader, writer):
    """Answer "POST /count" with the number sent and how many there were."""
    global count
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.split("content-length:")[1].split("\r\n")[0])
            number = await reader.readexactly(size)
            count += 1
            body = b"count %s %d" % (number, count)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def main():
    """Serve for ever."""
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
