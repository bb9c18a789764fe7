"""Measures that need a network, one file each; see :mod:`kinetophone.metrics.registry`."""
