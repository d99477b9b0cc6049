"""A TCP relay between one site and the server whose connections can be cut, refused, or left hanging."""

import contextlib
import socket
import threading
import time


class Relay:
    """Passes bytes on; `cut` ends all connections and refuses new ones for a while, `hang` passes nothing on."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._refuse_until = self._hang_until = 0.0
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self, seconds: float) -> None:
        self._refuse_until = time.monotonic() + seconds
        self._end_all()

    def hang(self, seconds: float) -> None:
        self._hang_until = time.monotonic() + seconds

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()
        for thread in self._threads:
            thread.join(5)

    def _end_all(self) -> None:
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._refuse_until:
                inside.close()
                continue
            try:
                outside = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                inside.close()
                continue
            ends = {inside, outside}
            with self._lock:
                self._open |= ends
            threads = [
                threading.Thread(target=self._pass, args=pair, daemon=True)
                for pair in ((inside, outside), (outside, inside))
            ]
            closer = threading.Thread(target=self._close_both, args=(threads, ends), daemon=True)
            for thread in (*threads, closer):
                thread.start()
            self._threads = [thread for thread in self._threads if thread.is_alive()] + [closer]

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                while time.monotonic() < self._hang_until and not self._closing:
                    time.sleep(0.05)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _close_both(self, threads: list[threading.Thread], ends: set[socket.socket]) -> None:
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= ends
        for end in ends:
            end.close()
