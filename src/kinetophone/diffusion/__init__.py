"""Diffusion: noise processes, timestep adjustment, guidance and the joint sampler, free of any network."""
