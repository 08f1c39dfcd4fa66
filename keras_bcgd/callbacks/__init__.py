"""Callbacks for `fit`: what quantization does while training.

- `monitor`: alphas, codes, distances; `csv_logger`: the same in a CSV file.
- `dead_layers`: warns of layers whose outputs are all 0.
- `align_for_export`: the model moved onto the grid of its file while it trains;
  `held`: what stays there.
"""
