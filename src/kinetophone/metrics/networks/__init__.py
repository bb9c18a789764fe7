"""Networks whose features the metrics use: loading them from files, and definitions of four."""
