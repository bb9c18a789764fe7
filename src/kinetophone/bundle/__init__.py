"""Bundles: their description, loading, saving, and uploading to the Hub."""
