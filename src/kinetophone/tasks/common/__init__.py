"""What tasks share: stretches that are kept, sampling from a bundle."""
