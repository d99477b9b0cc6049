"""The aggregation server."""
