"""QuantActivation: an activation other than the ReLU, on trained grids."""

import keras

from keras_bcgd import pointwise
from keras_bcgd.constraints import bound_up_to
from keras_bcgd.layers.composite import Composite
from keras_bcgd.layers.quant_hard_sigmoid import QuantHardSigmoid
from keras_bcgd.layers.quant_identity import QuantIdentity
from keras_bcgd.layers.quant_merge import QuantMultiply
from keras_bcgd.layers.quant_relu import QuantReLU
from keras_bcgd.layers.quant_table import QuantTable
from keras_bcgd.utils.checks import check_bits
from keras_bcgd.utils.checks import check_choice

# Other names that Keras has for them.
_SAME = {"silu": "swish", "hard_silu": "hard_swish"}
FUNCTIONS = (
    "hard_sigmoid",
    "hard_swish",
    "relu",
    "relu6",
    "sigmoid",
    "swish",
    "tanh",
)
# Beyond these inputs the outputs hardly change.
_DOMAINS = {"sigmoid": (-8.0, 8.0), "tanh": (-4.0, 4.0)}
_MINIMA = {"hard_swish": -3.0, "swish": -6.0}


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantActivation(Composite):
    """An activation that computes what the operators of the file compute.

    Its input goes to a signed 8-bit grid first (but for the ReLUs and the hard
    sigmoid, which the convolution before them rounds), and its output to one
    of `2**bits` codes. In the integer file it becomes:

    | function | operators | grid of the output |
    |---|---|---|
    | `"relu"`, `"relu6"` | none: a QuantReLU | k * alpha |
    | `"hard_sigmoid"` | none | from 0 to 1, `2**bits - 1` values |
    | `"sigmoid"` | LOGISTIC | steps of 1/256 |
    | `"tanh"` | TANH | steps of 1/128 |
    | `"swish"` | LOGISTIC, MUL | k * alpha |
    | `"hard_swish"` | DEPTHWISE_CONV_2D, MUL | k * alpha |

    The derivatives are coarse: those of the smooth functions inside the grids,
    0 outside. `keras_bcgd.calibrate` finds the steps of its parts, `alpha`
    among them, from data.

    Args:
        function: String, one of the above; `"silu"` is `"swish"` and
            `"hard_silu"` is `"hard_swish"`.
        bits: Int from 2 to 8 (1 for the ReLUs), the bits of the output;
            `"sigmoid"` and `"tanh"` have 8. Defaults to `8`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of any shape.

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> layer = keras_bcgd.QuantActivation("sigmoid")
    >>> np.array(layer(np.array([-9.0, 0.0, 1.0])))
    array([0.01953125, 0.5       , 0.73046875], dtype=float32)
    """

    def __init__(self, function, bits=8, **kwargs):
        super().__init__(**kwargs)
        check_choice("function", function, (*FUNCTIONS, *_SAME))
        function = _SAME.get(function, function)
        smallest = 1 if function in ("relu", "relu6") else 2
        self.function = function
        self.bits = check_bits(bits, smallest=smallest)
        if function in pointwise.TABLES and bits != 8:
            raise ValueError(
                f'`bits` must be 8 for function="{function}": the operator of '
                f"the runtime has 8 bits. Received: bits={bits!r}"
            )
        self.supports_masking = True
        self.parts = self._make_parts()

    def _make_parts(self):
        if self.function in ("relu", "relu6"):
            bound = None
            if self.function == "relu6":
                bound = bound_up_to(6.0, self.bits)
            self.staircase = self._part(
                QuantReLU, "relu", self.bits, alpha_constraint=bound
            )
            return [(self.staircase, [0])]
        if self.function == "hard_sigmoid":
            self.gate = self._part(QuantHardSigmoid, "gate", self.bits)
            return [(self.gate, [0])]
        minimum = _MINIMA.get(self.function)
        self.codes = self._part(QuantIdentity, "codes", minimum=minimum)
        if self.function in pointwise.TABLES:
            self.codes.domain = _DOMAINS[self.function]
            self.table = self._part(QuantTable, "table", self.function)
            return [(self.codes, [0]), (self.table, [1])]
        self.codes.domain = (minimum, float("inf"))
        if self.function == "swish":
            self.gate = self._part(QuantTable, "gate", "sigmoid")
        else:
            self.gate = self._part(QuantHardSigmoid, "gate")
        self.product = self._part(
            QuantMultiply,
            "product",
            self.bits,
            minimum=pointwise.SMALLEST[self.function],
        )
        return [(self.codes, [0]), (self.gate, [1]), (self.product, [1, 2])]

    def _part(self, kind, name, *args, **kwargs):
        name = f"{self.name}_{name}"
        return kind(*args, name=name, **self.common, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "function": self.function,
            "bits": self.bits,
        }
