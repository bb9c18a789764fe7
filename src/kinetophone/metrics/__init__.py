"""Metrics of audio-video clips: temporal alignment, event detectors and chance levels."""
