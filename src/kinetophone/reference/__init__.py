"""Compatibility with the published implementation of arXiv 2409.17550: settings, networks, checkpoint."""
