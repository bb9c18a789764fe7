"""Datasets of clips, and the latent cache."""
