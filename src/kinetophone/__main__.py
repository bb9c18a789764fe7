"""``python -m kinetophone``."""

from kinetophone.cli import app

app()
