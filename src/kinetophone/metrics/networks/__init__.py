"""Networks whose features the measures use: how a file becomes one, and definitions of four."""
