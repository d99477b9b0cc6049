"""A small HTTP proxy for tests: CONNECT only, with basic authentication where it is asked for."""

import base64
import contextlib
import socket
import threading


class ConnectProxy:
    """Listens on the loopback; `targets` are the tunnels that were opened, `heads` all requests as they came."""

    def __init__(self, credentials: str = "", *, status: str = "200 connected") -> None:
        self._expected = "Basic " + base64.b64encode(credentials.encode()).decode() if credentials else ""
        self._status = status
        self.targets, self.heads, self.seen = list[str](), list[str](), bytearray()
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.address = f"127.0.0.1:{self._sockets[0].getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            self.heads.append(head.decode())
            line, *fields = head.decode().split("\r\n")
            given = dict(field.split(": ", 1) for field in fields if field).get("Proxy-Authorization", "")
            if given != self._expected:
                client.sendall(b"HTTP/1.1 407 who are you\r\nProxy-Authenticate: Basic\r\n\r\n")
                return
            if not self._status.startswith("200"):
                client.sendall(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
                return
            method, target, _ = line.split(" ")
            assert method == "CONNECT"
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                self._sockets.append(server)
                client.sendall(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
                self.targets.append(target)
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self.seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Drop everything."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
