"""Bundles: what they say of themselves, loading and saving them, the Hub."""
