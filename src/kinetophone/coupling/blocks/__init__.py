"""The blocks that a coupling inserts, one file a kind."""
