"""kinetophone: sounding video - picture and sound generated together, in sync."""
