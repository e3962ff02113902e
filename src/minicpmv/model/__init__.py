"""Tensors to tensors: configuration, vision tower, 3D-Resampler, and the whole model."""
