"""`privet bench transport`: real processes answer real rounds, and every byte is counted."""

import json
import socket

import pytest
from typer.testing import CliRunner

from privet.common.cli.bench import app
from privet.simulations.bench.endpoints import update_arrays
from privet.simulations.bench.relay import Relay


def test_relay_forwards_and_counts_both_ways() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", relay.port)) as near:
            near.sendall(b"x" * 1000)
            far, _ = server.accept()
            with far:
                received = b""
                while len(received) < 1000:
                    received += far.recv(4096)
                far.sendall(b"y" * 300)
                answered = b""
                while len(answered) < 300:
                    answered += near.recv(4096)
        passed = relay.passed
        relay.close()
    assert (received, answered) == (b"x" * 1000, b"y" * 300)
    assert (passed.up, passed.down, passed.connections) == (1000, 300, 1)


def test_lora_update_is_that_of_bert_base() -> None:
    arrays = update_arrays(None, 1)
    assert len(arrays) == 48
    assert sum(array.size for array in arrays.values()) == 294_912


@pytest.mark.slow
def test_the_command_runs_rounds_and_tells_figures_in_json() -> None:
    ended = CliRunner().invoke(app, ["transport", "--sites", "1", "--rounds", "2", "--kilobytes", "200", "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert (found["sites"], found["rounds"], found["connections"]) == (1, 2, 1)
    assert found["update_bytes"] == 200_000
    assert found["payload_bytes"] == 400_000
    for way in ("up", "down"):
        assert 200_000 < found[f"wire_{way}_bytes"] < 260_000
    assert 0 < found["median_seconds"] <= found["p90_seconds"] <= found["longest_seconds"]
    assert found["server_peak_bytes"] >= found["server_idle_bytes"] > 10 << 20
