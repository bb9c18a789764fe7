"""Folders and Hub repositories in diffusers layout: locating them and reading their weights."""
