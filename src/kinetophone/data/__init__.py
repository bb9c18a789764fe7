"""Clip data sets and the latent cache."""
