"""For all tests: no deadline for a single example, since machines are shared."""

from hypothesis import settings

settings.register_profile("privet", deadline=None)
settings.load_profile("privet")
