"""Models in memory: loading them, batching requests for them, and running the batches."""
