"""`export_tflite` and `align_for_export`: the passes, one after another."""

from keras_bcgd.export import alignment
from keras_bcgd.export import alpha_alignment
from keras_bcgd.export import arguments
from keras_bcgd.export import calibration
from keras_bcgd.export import copies
from keras_bcgd.export import inputs
from keras_bcgd.export import integers
from keras_bcgd.export import means
from keras_bcgd.export import reasons
from keras_bcgd.export import targets
from keras_bcgd.export import weight_types
from keras_bcgd.export import write
from keras_bcgd.export.graph import read_graph
from keras_bcgd.export.plan import Plan
from keras_bcgd.export.report import AlignmentReport
from keras_bcgd.export.report import ExportReport
from keras_bcgd.export.report import FileEnd
from keras_bcgd.export.steps import WeightedStep
from keras_bcgd.network import ends
from keras_bcgd.tflite.schema import load_schema
from keras_bcgd.utils import checks
from keras_bcgd.utils.files import write_atomically
from keras_bcgd.utils.progress_bar import Progress

_WEIGHT_FORMATS = ("int8", "int4", "int2", "lut", "auto")
_MINIMIZE = ("size", "latency")
_INPUT_TYPES = ("int8", "uint8")
_OUTPUT_TYPES = ("auto", "int8", "uint8", "int16")
_VERBOSE = ("auto", 0, 1)


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
    target=None,
    verbose="auto",
):
    """Writes a trained model as a TFLite file that computes with integers.

    A model with several inputs or outputs becomes one file, whose signature
    has their names: those of the `keras.Input`s, and the keys of a dict of
    outputs or else the layers that compute them. Feed it by these names. (A
    single input is `"input"`, a single output `"output"`.)

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
            Concatenate, ZeroPadding2D, Cropping2D, Flatten, Reshape, Permute,
            UpSampling2D, Resizing, layers for training only such as Dropout,
            a Rescaling or Normalization at the input and a softmax or sigmoid
            at the end. Stock Conv2D, DepthwiseConv2D, Dense and ReLU are
            rounded to 8 bits, by `representative_data`.
        path: String or path-like, the file to write.
        input_range: `(low, high)`, the real inputs that the 256 int8 input
            codes span: `(0, 1)` for images divided by 255. It must hold 0.
            `None`: what `representative_data` ask for, a grid on which they
            lie if there is one, or their range; or the grid of a QuantIdentity
            at the start of the model. For several inputs a pair for all of
            them, a list of one for each, or a dict of them by the names of
            the inputs, `None` among them as above. Defaults to `None`.
        representative_data: Inputs, in a form that `keras_bcgd.calibrate`
            takes: an array, a `tf.data.Dataset`, a generator of batches; for
            several inputs a list, or a dict by name, or batches of these.
            Their logits choose the scale of the output; in 16 bits it reaches
            twice as far as they do. `None`: that scale comes from bounds that
            hold for every input; its steps are then coarse. One of
            `input_range` and `representative_data` is required. Defaults to
            `None`.
        weight_format: String. `"int8"`; `"int4"`, two weights in a byte,
            if every layer has at most 4 bits; `"int2"`, four in a byte, in
            QuantDense layers and convolutions of size 1 of 1 or 2 bits, and
            `"auto"` in the others (LiteRT 2.3 and TensorFlow 2.21 run it; its
            sums are so coarse that it fits the default kernels only, best
            after `align_for_export`); `"lut"`, the integers of `"int8"` as
            indices of 1 to 7 bits into a table, for TensorFlow Lite Micro
            alone; or `"auto"`, by `minimize`. Defaults to `"int8"`.
        batch_size: Int, the fixed batch of the file. Defaults to `1`.
        output_type: String. `"int8"`, `"uint8"`, `"int16"` or `"auto"`.
            `"int16"` has 65,536 steps for logits, if the last layer is dense
            or a convolution, and 32,768 behind a softmax or a sigmoid: in the
            256 of 8 bits the two largest may be equal. Of several outputs
            those that cannot have 16 bits then have 8.
            `"auto"` is `"int16"` where it can be, and else `"int8"`. Defaults
            to `"auto"`.
        input_type: String. `"int8"`, or `"uint8"` for images as they are.
            Defaults to `"int8"`.
        minimize: String, what `weight_format="auto"` is to make small:
            `"size"`: int4 where it fits, but for depthwise convolutions, which
            have few weights and slow kernels; or `"latency"`: int8. int4 dense
            layers and convolutions of size 1 take a tenth more time, other
            int4 convolutions several times as much. Defaults to `"size"`.
        labels: List of strings, the names of the classes in their order, for
            apps: they become the standard metadata of the file, with the
            names in its `labels.txt` (it is then a ZIP archive as well).
            `None`: no metadata, as it must be for several outputs. Defaults
            to `None`.
        align: Boolean. Whether the file is made of an aligned copy. Without,
            residual networks are near the model, not equal to it. Defaults to
            `True`.
        task: String. With `"classification"`, 8-bit logits too small to be
            among the two largest of a sample saturate, and the others have
            finer steps. `None` or `"regression"`: no logit of the data
            saturates. For several outputs also a dict by their names. Defaults
            to `None`.
        target: String, the one kind of runtime that the file is for:
            `"micro"`, TensorFlow Lite Micro, which leaves out what that does
            not read; or `"ethos-u"`, Arm's NPUs by Vela, without operators
            that Vela leaves to the CPU. `None`: LiteRT, and with int8 weights
            TensorFlow Lite Micro. Defaults to `None`.
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
    checks.check_choice("output_type", output_type, _OUTPUT_TYPES)
    checks.check_choice("input_type", input_type, _INPUT_TYPES)
    checks.check_choice("verbose", verbose, _VERBOSE)
    checks.check_count("batch_size", batch_size)
    arguments.check_align(align)
    load_schema()  # what is not installed is told before the work
    job = _Job(
        model,
        input_range,
        representative_data,
        weight_format,
        minimize,
        output_type,
        task,
        target,
        on_a_copy=align,
    )
    input_names, output_names = job.names
    outputs = dict(zip(output_names, job.graph.outputs, strict=True))
    labels = arguments.check_labels(labels, outputs)
    alignments = job.run(align, verbose)
    contents, *codes = write.contents(
        job.plan, model.name, batch_size, input_type, labels, job.names
    )
    write_atomically(path, contents)
    inputs, outputs = map(_file_ends, codes)
    return ExportReport(
        path=path,
        file_bytes=len(contents),
        inputs=inputs,
        outputs=outputs,
        layers=job.layers,
        notes=reasons.notes(
            job.plan,
            job.data,
            _if_several(input_names),
            _if_several(output_names),
        ),
        **job.inexact(),
        model=job.model if alignments else model,
        alignments=alignments,
    )


def _file_ends(codes):
    return {
        name: FileEnd(one.grid.file_scale, one.grid.zero_point, one.dtype)
        for name, one in codes.items()
    }


def _if_several(names):
    return names if len(names) > 1 else [None]


def align_for_export(
    model,
    input_range=None,
    representative_data=None,
    weight_format="int8",
    minimize="size",
    target=None,
    verbose="auto",
):
    """Moves a trained model onto the grid of its integer file, in place.

    What `export_tflite` does with a copy. Gamma and beta of batch
    normalizations (the bias, without one) change by parts of a thousand, and
    alphas of additions by less, so that no sum of the integer file lies where
    the kernels of the runtime or floating point could round it otherwise
    (`keras_bcgd.export.alignment`, `.alpha_alignment`). Do it once, after
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
        target: As for `export_tflite`.
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
    job = _Job(
        model,
        input_range,
        representative_data,
        weight_format,
        minimize,
        target=target,
    )
    alignments = job.run(True, verbose)
    return AlignmentReport(alignments, **job.inexact())


class _Job:
    """The three passes: a plan, its integers, and with `write` a file.

    Args:
        model: As for `export_tflite`, and so the others.
        on_a_copy: Boolean. Whether the plan is made of a copy of the model.
            Defaults to `False`.

    Attributes:
        model: The Keras model of which the plan is made.
        names: `(inputs, outputs)`: lists of strings, their names.
        data: List of arrays of representative data, one for each input, or
            `None`.
        graph: `node.Graph`.
        plan: `Plan`, once `run` has made it.
        layers: List of `LayerReport`, likewise.
    """

    def __init__(
        self,
        model,
        input_range,
        representative_data,
        weight_format,
        minimize,
        output_type="int8",
        task=None,
        target=None,
        on_a_copy=False,
    ):
        checks.check_choice("weight_format", weight_format, _WEIGHT_FORMATS)
        self._target = targets.choose(target, weight_format)
        checks.check_choice("minimize", minimize, _MINIMIZE)
        graph = read_graph(model)
        weight_types.check(graph, weight_format)
        self.names = ends.input_names(model), ends.output_names(model)
        self._output_types = arguments.output_types(graph, output_type)
        self._tasks = arguments.tasks(task, self.names[1])
        self._ranges = arguments.input_ranges(input_range, self.names[0])
        self.data = arguments.read_data(representative_data, model)
        arguments.check_calibration(graph, self.data)
        self._grids = self._choose_grids(graph)
        if on_a_copy:
            model = copies.copy_model(model)
            graph = read_graph(model)
        self.model, self.graph = model, graph
        self._measured = calibration.measure(graph, self.data)
        means.split_means(graph)
        self._weight_types = weight_types.choose(
            graph, weight_format, minimize, self._target
        )

    def run(self, align, verbose):
        """Makes the plan and finds its integers, aligned or not.

        Returns:
            List of `Alignment`, of what was moved.
        """
        bar = Progress(len(self.graph.nodes), verbose, "layer")
        moved = []
        if align:
            moved = alpha_alignment.align_alphas(self.graph)
            # That of a QuantIdentity has moved with its alpha.
            self._grids = self._choose_grids(self.graph)
        self.plan = Plan(
            self.graph,
            self._grids,
            *self._measured,
            self._weight_types,
            self._output_types,
            self._tasks,
            self._target,
        )
        for step in self.plan.steps:
            if align and isinstance(step, WeightedStep):
                moved.append(alignment.align(step))
            integers.find(step)
            bar.add(1)
        self.layers = integers.layer_reports(self.plan.steps)
        return [one for one in moved if one is not None]

    def _choose_grids(self, graph):
        """The grids of the inputs."""
        return inputs.choose(graph, self._ranges, self.data, self.names[0])

    def inexact(self):
        """The lists `inexact` and `inexact_elsewhere` of a report."""
        names = _if_several(self.names[0])
        return reasons.inexact(self.plan, self.layers, self.data, names)
