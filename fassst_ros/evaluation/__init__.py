"""Accuracy and latency of the deployed pipeline. No torch."""
