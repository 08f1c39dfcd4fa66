"""The pictures of two_layer.py."""
