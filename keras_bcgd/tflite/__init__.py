"""TFLite files: written, read, run, inspected, timed. It knows no Keras.

- `schema`: the classes of the format; `packing`: codes of 2 and 4 bits; `lut`:
  indices into tables.
- `writer`, `reader`: a file from tensors and operators, and back;
  `serialization`: its bytes; `compaction`: without what nothing uses.
- `metadata`: the labels of the classes in it.
- `runner`: runs it on one of the three kernel sets.
- `inspection`: what is in it: `weights`, `macs`, `memory` (the RAM of its
  tensors); `runtime_needs`: the runtimes that run it.
- `latency`: how long it takes; `single_operators`: each operator by itself.
"""
