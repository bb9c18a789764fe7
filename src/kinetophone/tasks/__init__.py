"""What can be asked of a bundle, one file a task."""
