"""Data, augmentation and the training loop. Needs torch; no ROS, no runtimes."""
