"""The site: agent, ledger, policy, data, trainer."""

import privet.common  # noqa: F401  (quiets the libraries underneath before they are imported)
