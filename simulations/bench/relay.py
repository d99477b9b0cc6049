"""A TCP relay on the loopback that counts what passes: TLS, HTTP/2 and all."""

import asyncio
import contextlib
import threading
from dataclasses import dataclass

_CHUNK = 256 << 10


@dataclass(frozen=True)
class Passed:
    """What passed since the relay began, in bytes, and how many connections were made."""

    up: int = 0
    down: int = 0
    connections: int = 0


class Relay:
    """Forwards connections from a port of its own to `target`, a port on this machine; runs in a thread."""

    def __init__(self, target: int) -> None:
        self._target, self._up, self._down, self._connections = target, 0, 0, 0
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.wait()

    @property
    def passed(self) -> Passed:
        return Passed(self._up, self._down, self._connections)

    def close(self) -> None:
        """End every connection."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0, backlog=1024)
        self.port = int(server.sockets[0].getsockname()[1])
        ready.set()
        await self._over.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(self._pump(reader, far_writer, up=True), self._pump(far_reader, writer, up=False))
            finally:
                far_writer.close()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while chunk := await reader.read(_CHUNK):
            if up:
                self._up += len(chunk)
            else:
                self._down += len(chunk)
            writer.write(chunk)
            await writer.drain()
        writer.close()
