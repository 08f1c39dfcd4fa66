"""Tables of a network: bits, bytes, operations, sensitivity."""
