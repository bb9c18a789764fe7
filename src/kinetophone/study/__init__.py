"""Experiments: grids of couplings, settings and seeds, and an analysis of what limits a bundle."""
