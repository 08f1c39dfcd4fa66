"""Every alpha, and batch normalization, from a few batches.

- `calibrate`: the functions `calibrate` and `best_alpha`.
- `batch_norm`: the function `reestimate_batch_norm`.
- `histogram`: the step with the smallest mean squared error.
"""
