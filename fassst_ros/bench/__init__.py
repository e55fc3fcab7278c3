"""Speed: the network alone, every stage around it, and the real node."""
