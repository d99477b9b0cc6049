"""`python -m privet.common.cli`."""

from privet.common.cli import main

main()
