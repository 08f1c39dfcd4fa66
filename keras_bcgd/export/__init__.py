"""Writes a trained model as an integer TFLite file with the same answers.

In three passes: the grid of every tensor (`plan`), the integers of every
operator (`integers`), the file (`write`). Module -> what it does:

- `exporter`: `export_tflite` and `align_for_export`: the passes in order.
- `arguments`, `weight_types`, `targets`: refuse what is no argument of these.

Reading a model:

- `support`: which layers have an integer form; the others are refused.
- `graph`, `builder`, `readers`: the layers as nodes, one per operator; `node`:
  these.
- `trained_values`: what training left in a node.
- `calibration`: what only data can tell.
- `means`: global averages that are exact in 8 bits.
- `copies`: the copy of a model that is aligned.

The passes:

- `steps`, `plan`: how the file computes each node, and the grid of its output.
- `inputs`, `columns`, `logits`: the grids of the input and of the outputs.
- `operators`: one file for each operator, with a function per pass.
- `integers`: weights and biases; `arithmetic`: these in NumPy, and why they
  give the trained codes; `bias_intervals`: where a bias makes rounding the
  trained staircase; `addition`, `multiplication`: where the sum, or the
  product, of two codes is the trained one.
- `alignment`, `channel_search`, `places`, `alpha_alignment`,
  `addition_alignment`: the model moved onto the grid of its file.
- `file`, `write`: the bytes.
- `report`, `reasons`: what `export_tflite` returns.

From a small file to a fast one:

- `unpacking`: `unpack_tflite`; `unpacked_model`: the graph;
  `unpacked_integers`: those where int8 weights round otherwise.
"""

from keras_bcgd.export.alignment import Alignment as Alignment
from keras_bcgd.export.exporter import align_for_export as align_for_export
from keras_bcgd.export.exporter import export_tflite as export_tflite
from keras_bcgd.export.report import AlignmentReport as AlignmentReport
from keras_bcgd.export.report import ExportReport as ExportReport
from keras_bcgd.export.report import LayerReport as LayerReport
from keras_bcgd.export.unpacking import UnpackReport as UnpackReport
from keras_bcgd.export.unpacking import unpack_tflite as unpack_tflite
