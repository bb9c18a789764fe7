"""Metrics that need a network, one module each; see :mod:`kinetophone.metrics.registry`."""
