"""Arguments, batches, text and files: what every folder needs."""
