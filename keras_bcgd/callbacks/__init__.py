"""Callbacks for `fit`: what quantization does while training."""
