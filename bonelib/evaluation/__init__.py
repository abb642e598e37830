"""Predictions, metrics with intervals, calibration, baselines and findings."""
