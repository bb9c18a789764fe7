"""Experiments: grids of couplings, settings and seeds, and what limits a bundle."""
