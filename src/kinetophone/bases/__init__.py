"""Frozen models from outside, one file per family; they know nothing of coupling."""
