"""Every alpha from a few batches.

- `calibrate`: the functions `calibrate` and `best_alpha`.
- `histogram`: the step with the smallest mean squared error.
"""
