"""The method: connectors, couplings, and the joint model that they make of two frozen base models."""
