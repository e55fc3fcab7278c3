"""Replay of bags: what a drive's frames gave, recorded, compared and reported; neither ROS nor torch."""
