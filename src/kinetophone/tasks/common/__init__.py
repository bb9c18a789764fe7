"""Code shared by the tasks: kept intervals, and sampling from a bundle."""
