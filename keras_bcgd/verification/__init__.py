"""Holds an exported TFLite file against the Keras model it came from.

Module -> what it does:

- `tasks`: what the outputs decide, and whether two outputs decide alike.
- `tolerance`: how far a kernel's rounding may be from the nearest code.
- `comparison`: values, decisions and labels, counted batch by batch.
- `report`: the counts as text.
- `verify`: runs file and model.
"""

from keras_bcgd.verification.report import KernelsReport as KernelsReport
from keras_bcgd.verification.report import (
    VerificationReport as VerificationReport,
)
from keras_bcgd.verification.verify import verify_tflite as verify_tflite
from keras_bcgd.verification.verify import (
    verify_tflite_on_all_kernels as verify_tflite_on_all_kernels,
)
