"""The server and sites that integration tests start from."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.sites import Hall, Scene


@pytest.fixture(scope="session")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    """A CA and a prepared database."""
    return Hall(tmp_path_factory.mktemp("hall"))


@pytest.fixture
def scene(hall: Hall) -> Iterator[Scene]:
    """A running server with two enrolled sites that are not started yet."""
    with ExitStack() as stack:
        yield Scene(hall, stack)
