"""Every alpha from a few batches."""
