"""The method: connectors, couplings, two clocks, and the joint model they make of two frozen ones."""
