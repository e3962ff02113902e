"""Rows to weights: recipes, objectives, one loop, and checkpoints that resume to the bit."""
