"""The aggregation server."""

import privet.common  # noqa: F401  (quiets the libraries underneath before they are imported)
