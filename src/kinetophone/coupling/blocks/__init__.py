"""The blocks that a coupling inserts into the base networks, one file per kind."""
