"""For all tests: no deadline for a single example, since machines are shared; and a tiny base, which nobody changes."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_models import tiny_base

settings.register_profile("privet", deadline=None)
settings.load_profile("privet")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))
