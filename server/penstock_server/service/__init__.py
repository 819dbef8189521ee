"""What Penstock answers, independent of how the bytes arrive."""
