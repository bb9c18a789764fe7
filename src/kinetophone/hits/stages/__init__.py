"""Training stages for the components of the bundle ``hits``."""
