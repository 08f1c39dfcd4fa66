"""Sources in C++ that run a TFLite file in TensorFlow Lite Micro (TFLM).

- `sources`: write_micro_sources, what the files are.
- `names`: the identifiers in them; `operators`: the methods of TFLM's resolver.
- `sample`: an input and what TFLM's interpreter computes of it.
- `arena`: the memory that the interpreter takes, measured.
- `cpp`: the text of each file; `program`: that of main.cc.
- `report`: what was written, as text.
"""

from keras_bcgd.micro.report import MicroSourcesReport as MicroSourcesReport
from keras_bcgd.micro.sources import write_micro_sources as write_micro_sources
