"""The switches are set before the libraries read them, and what the user set stays."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, logging, os
from privet.common import quiet
from flwr.supercore import log
log(logging.ERROR, "flower speaks")
quiet.offline()
print(json.dumps(dict(os.environ)))
"""


def run(**environment: str) -> tuple[dict[str, str], str]:
    inherited = {key: value for key, value in os.environ.items() if key.split("_")[0] in ("PATH", "PYTHONPATH", "HOME")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout), result.stderr


def test_switches_are_set_and_flower_is_silent() -> None:
    environment, errors = run()
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environment["GRPC_VERBOSITY"] == "NONE"
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert errors == ""


def test_what_the_user_set_stays() -> None:
    environment, _ = run(GRPC_VERBOSITY="DEBUG", HF_HUB_DISABLE_TELEMETRY="0")
    assert environment["GRPC_VERBOSITY"] == "DEBUG"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "0"
