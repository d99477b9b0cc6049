"""Silence and privacy of the libraries underneath; import this before any of them.

Importing the module sets, without overriding what the user set, the switches by which Flower, Ray and the Hugging Face
libraries stop reporting usage and looking for updates, and by which gRPC's core stops printing to the terminal. It
also turns Flower's own logger off: what privet has to say, privet says itself.
"""

import logging
import os

_SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRPC_VERBOSITY": "NONE",  # read when grpc is imported, which `import flwr` does
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def hush() -> None:
    """Set the switches that the environment leaves open and turn Flower's and gRPC's loggers off. Idempotent."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    for name in ("flwr", "grpc._server"):  # disabled survives the handlers and levels that flwr sets on import
        logging.getLogger(name).disabled = True


def offline() -> None:
    """Forbid the Hugging Face libraries any download; call it before they are imported."""
    os.environ.update(_OFFLINE)


hush()
