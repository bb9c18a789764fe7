"""The tasks that a bundle can do, one file per task."""
