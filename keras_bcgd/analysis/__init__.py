"""Tables of a network: bits, bytes, operations, sensitivity.

- `summary`, `summary_table`: a table of layers.
- `macs`, `call_trace`, `activation_statistics`: what is in it.
- `sensitivity`: what quantizing one layer costs, and mixed bits from that.
- `bit_allocation`: the greedy choice of these.
"""
