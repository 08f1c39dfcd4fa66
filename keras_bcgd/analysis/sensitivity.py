"""What quantizing one layer costs: mixed precision by measurement."""

import re

import keras
import numpy as np
from keras import ops

from keras_bcgd import layers as quant_layers
from keras_bcgd.analysis.bit_allocation import choose_bits
from keras_bcgd.analysis.bit_allocation import packed_bytes
from keras_bcgd.constraints import QuantProjection
from keras_bcgd.network.model_layers import leaves
from keras_bcgd.projections import check_method
from keras_bcgd.utils import tables
from keras_bcgd.utils.batches import gather
from keras_bcgd.utils.checks import VERBOSE
from keras_bcgd.utils.checks import check_bits
from keras_bcgd.utils.checks import check_choice
from keras_bcgd.utils.checks import check_count
from keras_bcgd.utils.checks import check_model

# The layers whose weights can be quantized: their kernels, and the axes of
# these that hold output channels.
_CONV_1D = {"kernel": quant_layers.QuantConv1D.channel_axes}
_CONV = {"kernel": quant_layers.QuantConv2D.channel_axes}
_TRANSPOSED = {"kernel": quant_layers.QuantConv2DTranspose.channel_axes}
_DEPTHWISE = {"kernel": quant_layers.QuantDepthwiseConv2D.channel_axes}
_DENSE = {"kernel": quant_layers.QuantDense.channel_axes}
_KERNELS = {
    keras.layers.Conv1D: _CONV_1D,
    quant_layers.QuantConv1D: _CONV_1D,
    keras.layers.Conv2D: _CONV,
    quant_layers.QuantConv2D: _CONV,
    keras.layers.Conv2DTranspose: _TRANSPOSED,
    quant_layers.QuantConv2DTranspose: _TRANSPOSED,
    keras.layers.DepthwiseConv2D: _DEPTHWISE,
    quant_layers.QuantDepthwiseConv2D: _DEPTHWISE,
    keras.layers.Dense: _DENSE,
    quant_layers.QuantDense: _DENSE,
    keras.layers.SeparableConv2D: {
        "depthwise_kernel": _DEPTHWISE["kernel"],
        "pointwise_kernel": _CONV["kernel"],
    },
}
_MODES = ("auto", "min", "max")
# Words in the names of metrics: Keras' own metrics and losses, mostly.
_SMALL_IS_GOOD = set(
    "loss error mse mae mape msle rmse crossentropy divergence hinge".split()
)
_LARGE_IS_GOOD = set("acc accuracy auc f1 iou precision recall".split())


class SensitivityTable(tables.Table):
    """What `sensitivity` measured; `print` it, or let `choose` read it.

    Attributes:
        rows: List of dicts, one for each layer and bit width: `layer`, `bits`,
            `weights` (their number), `bytes` (packed), `cost` (how much worse
            the metric gets), and every metric of the model.
        baseline: Dict, the metrics of the float model.
        metric: String, the metric whose change is the cost.

    Example:

    ```python
    data = x_train[:1000], y_train[:1000]
    table = keras_bcgd.sensitivity(float_model, data, bits=(2, 8), verbose=0)
    print({(row["layer"], row["bits"]): row["cost"] for row in table.rows})
    ```
    """

    def __init__(self, rows, baseline, metric):
        self.baseline = baseline
        self.metric = metric
        all_bits = sorted({row["bits"] for row in rows})
        header = ["layer", "weights", "float32 bytes"]
        header += [f"{bits} bit{'s' * (bits > 1)}" for bits in all_bits]
        cells = {}
        for row in rows:
            number = row["weights"]
            start = [row["layer"], f"{number:,}", f"{4 * number:,}"]
            cells.setdefault(row["layer"], start).append(f"{row['cost']:+.4f}")
        notes = [
            f"By how much {metric} gets worse, from {baseline[metric]:.4f}, "
            "when the weights of that layer alone are quantized."
        ]
        super().__init__(rows, [header, *cells.values()], notes)

    def choose(self, size_budget_bytes):
        """The bits of each layer for a budget, by the greedy rule.

        The costs of the layers are added up, as if each were the only one. By
        this sum the choice is at least as good as any uniform width that fits.
        See `keras_bcgd.analysis.bit_allocation.choose_bits` for the rule,
        and for when its choice is the best one.

        Args:
            size_budget_bytes: Int, the largest sum of the packed weights of
                all layers of the table.

        Returns:
            Dict from layers to `{"weight_bits": bits}`: the `overrides` of
            `keras_bcgd.quantize_model`.

        Raises:
            ValueError: If the layers need more at their fewest bits, or the
                budget is no number.
        """
        chosen = choose_bits(
            self._by_layer("cost"), self._by_layer("bytes"), size_budget_bytes
        )
        # A name may match a path that ends with it; the later rule counts.
        names = sorted(chosen, key=lambda name: name.count("/"))
        return {name: {"weight_bits": chosen[name]} for name in names}

    def packed_bytes(self, bits):
        """The bytes of all weights of the table, packed.

        Args:
            bits: Int, the bits of every layer; or a dict as `choose` returns.

        Returns:
            An int.

        Raises:
            ValueError: If `bits` is none of these, or of other layers.
        """
        numbers = {row["layer"]: row["weights"] for row in self.rows}
        if not isinstance(bits, dict):
            bits = check_bits(bits, allow_float=True)
            return sum(packed_bytes(n, bits) for n in numbers.values())
        if set(bits) != set(numbers):
            raise ValueError(
                "`bits` must have the layers of the table: "
                f"{', '.join(numbers)}. Received: {', '.join(map(str, bits))}"
            )
        total = 0
        for name, rule in bits.items():
            if not isinstance(rule, dict) or "weight_bits" not in rule:
                raise ValueError(
                    "`bits` must hold dicts {'weight_bits': bits}. "
                    f"Received: {rule!r} for the layer '{name}'"
                )
            width = check_bits(rule["weight_bits"], allow_float=True)
            total += packed_bytes(numbers[name], width)
        return total

    def _by_layer(self, key):
        found = {}
        for row in self.rows:
            found.setdefault(row["layer"], {})[row["bits"]] = row[key]
        return found


def sensitivity(
    model,
    data,
    bits=(1, 2, 4, 8),
    metric="loss",
    mode="auto",
    projection="lloyd",
    per_channel=False,
    batch_size=128,
    verbose=1,
):
    """Measures what it costs to quantize the weights of one layer alone.

    Each `Conv1D`, `Conv2D`, `Conv2DTranspose`, `DepthwiseConv2D`,
    `SeparableConv2D` and `Dense` of a trained float model in turn gets the
    projection of its weights on each of `bits`; the model is evaluated on
    labelled data; then the weights are put back. Nothing is trained, and the
    model is left as it was. Activations stay float.

    Data that chose the bits say too little about the test: take training or
    validation data.

    Args:
        model: Compiled `keras.Model` with float weights, whose loss and
            metrics are measured. Models inside it are looked into.
        data: Labelled data: a tuple `(x, y)` or `(x, y, sample_weight)` of
            arrays, x and y of a model with several inputs or outputs as lists
            or dicts of arrays; or a finite `PyDataset`, `tf.data.Dataset` or
            iterable of such batches, which is read once.
        bits: Ints from 1 to 8. Defaults to `(1, 2, 4, 8)`.
        metric: String, the loss or metric whose change is the cost: a name
            that `model.evaluate(..., return_dict=True)` returns, of a metric
            that is one number. Defaults to `"loss"`.
        mode: String, `"min"` if a small metric is good, `"max"` if a large one
            is; `"auto"`: told by the last word of its name that is known: loss,
            error, mse, crossentropy and the like, or acc, accuracy, auc, f1,
            iou, precision, recall. Defaults to `"auto"`.
        projection: String; see `keras_bcgd.project`. Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel. Defaults to
            `False`.
        batch_size: Int. Defaults to `128`.
        verbose: `"auto"`, 0, 1, or 2, as in `fit`. 0 shows no progress bar.
            Defaults to `1`.

    Returns:
        A `SensitivityTable`; `table.choose(bytes)` gives mixed bits.

    Raises:
        ValueError: If an argument is not one of the above, the model is not
            compiled, or has no layer to quantize or one that is quantized, or
            the metric of the float model is not finite.

    Example:

    ```python
    data = x_train[:1000], y_train[:1000]
    table = keras_bcgd.sensitivity(float_model, data, verbose=0)
    print(table)
    overrides = table.choose(size_budget_bytes=table.packed_bytes(2))
    ```
    """
    check_model(model)
    bits = sorted({check_bits(b) for b in _as_tuple(bits)})
    check_choice("mode", mode, _MODES)
    check_choice("verbose", verbose, VERBOSE)
    check_count("batch_size", batch_size)
    if not isinstance(per_channel, bool):
        raise ValueError(
            "`per_channel` must be True or False. "
            f"Received: per_channel={per_channel!r}"
        )
    for b in bits:
        check_method(projection, b)
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled: its loss and metrics are measured. "
            f"Received: the model '{model.name}', not compiled"
        )
    layers = _float_layers(model)
    batch = gather(data, model)
    if len(batch) < 2:
        raise ValueError(
            "`data` must be labelled: (x, y), or batches of these. "
            "Received: inputs alone"
        )

    def measure():
        return model.evaluate(
            *batch[:2],
            sample_weight=batch[2] if len(batch) > 2 else None,
            batch_size=batch_size,
            verbose=0,
            return_dict=True,
        )

    baseline = measure()
    if metric not in baseline:
        raise ValueError(
            f"`metric` must be one of {', '.join(baseline)}. "
            f"Received: metric={metric!r}"
        )
    sign = -1 if _is_max(metric, mode) else 1
    _check_baseline(metric, baseline[metric])
    progress = keras.utils.Progbar(
        len(layers) * len(bits),
        verbose=1 if verbose == "auto" else verbose,
        unit_name="evaluation",
    )
    rows = []
    for name, kernels in layers.items():
        # Copies: JAX gives buffers up.
        kept = [np.array(ops.convert_to_numpy(k)) for k, _ in kernels]
        size = sum(value.size for value in kept)
        try:
            for b in bits:
                for (kernel, axes), value in zip(kernels, kept, strict=True):
                    axis = axes if per_channel else None
                    kernel.assign(QuantProjection(b, projection, axis)(value))
                values = measure()
                row = {"layer": name, "bits": b, "weights": size}
                row["bytes"] = packed_bytes(size, b)
                row["cost"] = sign * (values[metric] - baseline[metric])
                rows.append(row | values)
                progress.add(1)
        finally:
            for (kernel, _), value in zip(kernels, kept, strict=True):
                kernel.assign(value)
    return SensitivityTable(rows, baseline, metric)


def _as_tuple(bits):
    bits = tuple(bits) if isinstance(bits, (list, tuple, range)) else (bits,)
    if not bits:
        raise ValueError(
            f"`bits` must be integers from 1 to 8. Received: bits={bits!r}"
        )
    return bits


def _is_max(metric, mode):
    if mode != "auto":
        return mode == "max"
    # Keras' names for IoU have "io_u".
    words = re.findall("f1|[a-z]+", metric.lower().replace("io_u", "iou"))
    known = [w for w in words if w in _SMALL_IS_GOOD | _LARGE_IS_GOOD]
    if not known:
        raise ValueError(
            f'`mode` must be "min" or "max" for the metric \'{metric}\', whose '
            "name does not tell whether a small or a large one is good. "
            f"Received: mode={mode!r}"
        )
    return known[-1] in _LARGE_IS_GOOD


def _check_baseline(metric, value):
    if np.ndim(value):
        raise ValueError(
            "`metric` must be one number. Received: metric="
            f"{metric!r}, an array of shape {np.shape(value)}"
        )
    if not np.isfinite(value):
        raise ValueError(
            "`metric` must be finite for the float model. Received: "
            f"metric={metric!r}, which is {float(value)}"
        )


def _float_layers(model):
    """The kernels to quantize, `(variable, channel axes)`, by their layers.

    A layer goes by its name; by its path, where others have that name too.
    """
    found = {}
    layers = leaves(model)
    names = [layer.name for layer in layers.values()]
    for path, layer in layers.items():
        kernels = [
            (getattr(layer, attribute), axes)
            for attribute, axes in _KERNELS.get(type(layer), {}).items()
        ]
        for kernel, _ in kernels:
            if isinstance(getattr(kernel, "constraint", None), QuantProjection):
                raise ValueError(
                    "`model` must be the float model. Received: a model whose "
                    f"layer '{path}' has {kernel.constraint.bits} bits"
                )
        if kernels and all(_is_float_variable(kernel) for kernel, _ in kernels):
            unique = names.count(layer.name) == 1
            found[layer.name if unique else path] = kernels
    if not found:
        raise ValueError(
            "`model` must have a convolution or a Dense layer with float "
            f"weights. Received: the model '{model.name}' without any"
        )
    return found


def _is_float_variable(kernel):
    """Not so: the sum of a LoRA layer, the integers of Keras' own quantizer."""
    is_variable = isinstance(kernel, keras.Variable)
    return is_variable and keras.backend.is_float_dtype(kernel.dtype)
