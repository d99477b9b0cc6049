"""`python -m privet.common.cli`."""

from . import main

main()
