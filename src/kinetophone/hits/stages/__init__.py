"""The stages that train what ships with the bundle ``hits``."""
