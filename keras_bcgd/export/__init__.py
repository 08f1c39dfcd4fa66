"""Writes a trained model as an integer TFLite file with the same answers.

Module -> what it does:

- `arguments`: refuses what is not an argument of `export_tflite`.
- `support`: which layers have an integer form; the others are refused.
- `calls`: the calls of layers of a Keras model in the order they run.
- `graph`: these layers as nodes, one per operator.
- `trained`: what training left in a node.
- `calibration`: what only data can tell.
- `inputs`: the grid of the input.
- `columns`: input columns that are too small for one step.
- `arithmetic`: the integers of the file, in NumPy, and why they give the
  trained codes.
- `windows`: where a bias makes rounding the trained staircase.
- `means`: global averages that are exact in 8 bits.
- `addition`: where the sum of two codes is the trained one.
- `alignment`, `addition_alignment`: the model moved onto the grid of its file.
- `copies`: the copy of a model that is moved.
- `logits`: the scale of the outputs.
- `lowering`: nodes to operators.
- `report`: what `export_tflite` returns.
"""

import numpy as np

from keras_bcgd.export import addition_alignment
from keras_bcgd.export import alignment
from keras_bcgd.export import arguments
from keras_bcgd.export import calibration
from keras_bcgd.export import columns
from keras_bcgd.export import copies
from keras_bcgd.export import inputs
from keras_bcgd.export import lowering
from keras_bcgd.export import means
from keras_bcgd.export.alignment import Alignment as Alignment
from keras_bcgd.export.graph import read_graph
from keras_bcgd.export.report import AlignmentReport as AlignmentReport
from keras_bcgd.export.report import ExportReport as ExportReport
from keras_bcgd.export.report import LayerReport as LayerReport
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.utils import checks
from keras_bcgd.utils.files import write_atomically
from keras_bcgd.utils.progress_bar import Progress

_WEIGHT_FORMATS = ("int8", "int4", "int2", "auto")
_MINIMIZE = ("size", "latency")
_INPUT_TYPES = ("int8", "uint8")
_OUTPUT_TYPES = ("auto", "int8", "uint8", "int16")
_TASKS = (None, "classification", "regression")
_VERBOSE = ("auto", 0, 1)

_DESCRIPTION = "Integer network written by keras_bcgd"


def export_tflite(
    model,
    path,
    input_range=None,
    representative_data=None,
    weight_format="int8",
    batch_size=1,
    output_type="auto",
    input_type="int8",
    minimize="size",
    labels=None,
    align=True,
    task=None,
    verbose="auto",
):
    """Writes a trained model as a TFLite file that computes with integers.

    Between input and output every tensor is an integer. The weights are the
    trained codes times one integer per layer (with the sign turned in
    channels of negative batch normalization gamma), batch normalization and
    the staircase of the QuantReLU are folded into scales and integer biases,
    and the activations are the codes k of the trained network (slides "Full
    Quantization Problem" and "Activation Quantization (AQ)";
    `keras_bcgd.export.arithmetic` has the arithmetic). The file is written
    whole or not at all.

    By default the file computes every code of a *copy* of the model, whose
    batch normalizations and alphas are aligned with its integers as
    `align_for_export` does it. That copy is `report.model`: evaluate, verify
    and keep it. The given model is not changed. A model that needs no
    alignment, or has had one, is `report.model` itself.

    Args:
        model: A built `keras.Sequential` or functional model, also nested, of
            the layers of this package, BatchNormalization, pooling, Add,
            Concatenate, ZeroPadding2D, Flatten, Reshape, layers for training
            only such as Dropout, a Rescaling or Normalization at the input
            and a softmax or sigmoid at the end. Stock Conv2D,
            DepthwiseConv2D, Dense and ReLU are rounded to 8 bits, by
            `representative_data`.
        path: String or path-like, the file to write.
        input_range: `(low, high)`, the real inputs that the 256 int8 input
            codes span: `(0, 1)` for images divided by 255. It must hold 0.
            `None`: what `representative_data` ask for, a grid on which they
            lie if there is one, or their range; or the grid of a QuantIdentity
            at the start of the model. Defaults to `None`.
        representative_data: Inputs, in a form that `keras_bcgd.calibrate`
            takes: an array, a `tf.data.Dataset`, a generator of batches.
            Their logits choose the scale of the output; in 16 bits it reaches
            twice as far as they do. `None`: that scale comes from bounds that
            hold for every input; its steps are then coarse. One of
            `input_range` and `representative_data` is required. Defaults to
            `None`.
        weight_format: String. `"int8"`; `"int4"`, two weights in a byte,
            if every layer has at most 4 bits; `"int2"`, four in a byte, in
            QuantDense layers of 1 or 2 bits, int4 in the others that have at
            most 4 (LiteRT 2.3 and TensorFlow 2.21 run it; its sums are so
            coarse that it fits the default kernels only, best after
            `align_for_export`); `"auto"`, by `minimize`. Defaults to `"int8"`.
        batch_size: Int, the fixed batch of the file. Defaults to `1`.
        output_type: String. `"int8"`, `"uint8"`, `"int16"` or `"auto"`.
            `"int16"` has 65,536 steps for logits, if the last layer is dense
            or a convolution, and 32,768 behind a softmax or a sigmoid: in the
            256 of 8 bits the two largest may be equal.
            `"auto"` is `"int16"` where it can be, and else `"int8"`. Defaults
            to `"auto"`.
        input_type: String. `"int8"`, or `"uint8"` for images as they are.
            Defaults to `"int8"`.
        minimize: String, what `weight_format="auto"` is to make small:
            `"size"`, or `"latency"`: int8, as int4 convolutions are slower.
            Defaults to `"size"`.
        labels: List of strings, the names of the classes in their order, for
            apps: they become the standard metadata of the file, with the
            names in its `labels.txt` (it is then a ZIP archive as well).
            `None`: no metadata. Defaults to `None`.
        align: Boolean. Whether the file is made of an aligned copy. Without,
            residual networks are near the model, not equal to it. Defaults to
            `True`.
        task: String. With `"classification"`, 8-bit logits too small to be
            among the two largest of a sample saturate, and the others have
            finer steps. `None` or `"regression"`: no logit of the data
            saturates. Defaults to `None`.
        verbose: `"auto"`, 0 or 1. 0 shows no progress bar, `"auto"` one if it
            takes more than some seconds. Defaults to `"auto"`.

    Returns:
        An `ExportReport`; printed, it is a table. Its first line says whether
        the file is exact, and if not, where.

    Raises:
        ValueError: If an argument is not one of the above, or the model has
            something that cannot be exported: the message names every such
            layer.
        OSError: If the file cannot be written.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    report = keras_bcgd.export_tflite(
        model, "digits.tflite", input_range=(0, 1), representative_data=x_train
    )
    print(report)
    print(keras_bcgd.verify_tflite(report.model, "digits.tflite", x_test))
    ```
    """
    path = arguments.check_path(path)
    arguments.check_choice("output_type", output_type, _OUTPUT_TYPES)
    arguments.check_choice("input_type", input_type, _INPUT_TYPES)
    checks.check_choice("task", task, _TASKS)
    checks.check_choice("verbose", verbose, _VERBOSE)
    arguments.check_align(align)
    writer = TFLiteWriter(_DESCRIPTION)
    low, grid, data = _lowering(
        model,
        writer,
        input_range,
        representative_data,
        weight_format,
        minimize,
        batch_size,
        output_type,
        task,
        on_a_copy=align,
    )
    labels = arguments.check_labels(labels, low.graph.output.output_shape[-1])
    alignments, (first, last) = _run(low, grid, input_type, align, verbose)
    contents = _contents(model, writer, first.index, last.index, labels)
    write_atomically(path, contents)
    return ExportReport(
        path=path,
        file_bytes=len(contents),
        input_scale=first.grid.file_scale,
        input_zero_point=first.grid.zero_point,
        output_scale=last.grid.file_scale,
        output_zero_point=last.grid.zero_point,
        layers=low.rows,
        notes=_notes(grid, low, data),
        **_inexact(low, grid, data),
        model=low.model if alignments else model,
        alignments=alignments,
    )


def align_for_export(
    model,
    input_range=None,
    representative_data=None,
    weight_format="int8",
    minimize="size",
    verbose="auto",
):
    """Moves a trained model onto the grid of its integer file, in place.

    What `export_tflite` does with a copy. Gamma and beta of batch
    normalizations (the bias, without one) change by parts of a thousand, and
    alphas of additions by less, so that no sum of the integer file lies where
    the kernels of the runtime or floating point could round it otherwise
    (`keras_bcgd.export.alignment`, `.addition_alignment`). Do it once, after
    training and before the model is evaluated for the last time; then
    `export_tflite` with the same arguments gives a file that computes the same
    codes. Chains of QuantReLUs hardly need it. Residual networks do: without
    it a few codes in a thousand of each branch differ by one, and the layers
    that follow amplify it.

    Args:
        model: As for `export_tflite`. It is changed.
        input_range: As for `export_tflite`.
        representative_data: As for `export_tflite`.
        weight_format: As for `export_tflite`.
        minimize: As for `export_tflite`.
        verbose: As for `export_tflite`.

    Returns:
        An `AlignmentReport`; printed, it is a table. Its first line says
        whether the file will be exact, and if not, where.

    Raises:
        ValueError: As `export_tflite`.

    Example:

    ```python
    keras_bcgd.align_for_export(model, input_range=(0, 1))
    model.evaluate(x_test, y_test)
    keras_bcgd.export_tflite(model, "model.tflite", input_range=(0, 1))
    ```
    """
    checks.check_choice("verbose", verbose, _VERBOSE)
    low, grid, data = _lowering(
        model,
        TFLiteWriter(_DESCRIPTION),
        input_range,
        representative_data,
        weight_format,
        minimize,
    )
    alignments, _ = _run(low, grid, "int8", True, verbose)
    return AlignmentReport(alignments, **_inexact(low, grid, data))


def _lowering(
    model,
    writer,
    input_range,
    representative_data,
    weight_format,
    minimize,
    batch_size=1,
    output_type="int8",
    task=None,
    on_a_copy=False,
):
    """`(Lowering, grid of the input, representative data)`, all checked."""
    arguments.check_choice("weight_format", weight_format, _WEIGHT_FORMATS)
    arguments.check_choice("minimize", minimize, _MINIMIZE)
    arguments.check_batch_size(batch_size)
    graph = read_graph(model)
    arguments.check_weight_format(graph, weight_format)
    output_type = arguments.output_type(graph, output_type)
    data = arguments.read_data(representative_data, model)
    arguments.check_calibration(graph, data)
    grid = inputs.choose(graph, input_range, data)
    if on_a_copy:
        model = copies.copy_model(model)
        graph = read_graph(model)
    ranges, logits = calibration.measure(graph, data)
    means.split_means(graph)
    low = lowering.Lowering(
        writer,
        model,
        graph,
        ranges,
        logits,
        _weight_formats(graph, weight_format, minimize),
        batch_size,
        output_type,
        task,
    )
    return low, grid, data


def _run(low, grid, input_type, align, verbose):
    """Adds all nodes, aligned or not: `(alignments, (first, last))`."""
    bar = Progress(len(low.graph.nodes), verbose, "layer")
    alignments = []

    def move(job):
        alignments.append(alignment.align(job))

    if align:
        alignments += addition_alignment.align_additions(low.graph)
    before = move if align else None
    ends = low.run(grid, input_type, before, lambda: bar.add(1))
    return [moved for moved in alignments if moved is not None], ends


def _contents(model, writer, first, last, labels):
    """The bytes of the file."""
    inputs, outputs = {"input": first}, {"output": last}
    if labels is None:
        return writer.finish(inputs, outputs)
    packed = metadata.labels_metadata(model.name, *inputs, *outputs)
    contents = writer.finish(inputs, outputs, {metadata.BUFFER: packed})
    return metadata.append_labels(contents, labels)


def _weight_formats(graph, weight_format, minimize):
    """The type of the weights of each node that has a kernel."""
    if weight_format == "int2":
        others = _weight_formats(graph, "int4", minimize)
        return {
            node: "int2" if arguments.is_int2(node) else kind
            for node, kind in others.items()
        }
    if weight_format == "auto":
        weight_format = "int4" if minimize == "size" else "int8"
    return {
        node: weight_format if node.bits <= 4 else "int8"
        for node in graph.nodes
        if node.is_convolution
    }


def _inexact(low, grid, data):
    """Where the file may compute other codes than the model, and why.

    Returns:
        Dict of the lists `inexact`, on the default kernels, and
        `inexact_elsewhere`, on others only.
    """
    reasons = []
    if data is not None:
        reasons.append(columns.reason(data, grid))
        reasons.append(inputs.reason(low.graph, grid, data))
    on_default = [
        row for row in low.rows if row.exact_by_default < row.thresholds
    ]
    on_others = [
        row
        for row in low.rows
        if row.exact < row.thresholds == row.exact_by_default
    ]
    reasons.append(_at_thresholds(on_default))
    untrained = [f"'{row.name}'" for row in low.rows if not row.trained]
    if untrained:
        reasons.append(
            "rounded to 8 bits in the file, not in training: the outputs of "
            + ", ".join(untrained)
        )
    elsewhere = _at_thresholds(on_others)
    return {
        "inexact": [why for why in reasons if why is not None] + low.inexact,
        "inexact_elsewhere": [] if elsewhere is None else [elsewhere],
    }


def _at_thresholds(rows):
    if not rows:
        return None
    where = ", ".join(
        f"{row.thresholds - row.exact:,} of {row.thresholds:,} in '{row.name}'"
        for row in rows
    )
    advice = ""
    if any(row.weight_bits == 8 for row in rows):
        # Twice the codes leave room between sums.
        advice = "; 8-bit weights leave no room, those of 7 bits do"
    return f"sums at a threshold may give the next code, at {where}{advice}"


def _notes(grid, low, data):
    notes = []
    if data is not None:
        outside = np.mean(~grid.covers(data))
        if outside:
            notes.append(
                f"{outside:.2%} of `representative_data` is outside of "
                "`input_range` and saturates."
            )
    if grid.offset:
        notes.append(
            "0.0 is between two input codes, by "
            f"{abs(grid.offset) / grid.scale:.3f} of a step; convolutions "
            "make up for it, but zero padding of the input does not."
        )
    if low.graph.logits is None:
        return notes
    if data is None:
        notes.append(
            "The scale of the output comes from bounds that hold for every "
            "input; with `representative_data` its steps are finer."
        )
    elif low.saturated:
        notes.append(
            f"{low.saturated:.2%} of the logits of `representative_data` are "
            "outside of the 8-bit output and saturate, as they are too small "
            "to decide."
        )
    return notes
