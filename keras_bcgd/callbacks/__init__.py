"""Callbacks for `fit`: what quantization does while training.

- `monitor`: alphas, codes, distances; `csv_logger`: the same in a CSV file.
- `dead_layers`: warns of layers whose outputs are all 0.
"""
