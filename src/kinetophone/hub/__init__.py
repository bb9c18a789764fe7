"""Folders and repositories in diffusers layout: finding them, reading their weights."""
