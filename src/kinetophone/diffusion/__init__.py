"""Sampling on two clocks: pure functions over a noise prediction."""
