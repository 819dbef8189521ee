"""Tensors as numpy arrays, and the bytes they travel as."""
