"""Measures of sounding video: alignment in time, detectors, and what chance alone would give."""
