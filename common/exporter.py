"""Numbers for Prometheus on this machine's loopback: a registry of its own, served by a thread until it is closed."""

from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from privet.common.config.loopback import split_loopback
from privet.common.errors import TransportError


class Exporter:
    """Serves `registry` at http://ADDRESS/metrics while it is open; process memory and CPU are in it already."""

    def __init__(self, address: str) -> None:
        """Raises: TransportError where nothing can listen there."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        host, port = split_loopback(address)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise TransportError(
                f"nothing can listen there ({error.strerror or type(error).__name__}).",
                where=f"{address} (metrics)",
                mend="stop the program that listens there, or give `metrics` another port.",
            ) from None

    def close(self) -> None:
        """Stop serving; the port is free when this returns."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
