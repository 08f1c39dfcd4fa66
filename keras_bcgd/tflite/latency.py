"""How long TFLite files take, side by side, and each of their operators.

The Python interface of the runtime has no profiler: an operator is timed in a
file of its own.
"""

import dataclasses
import os
import time

import keras
import numpy as np

from keras_bcgd.tflite import reader
from keras_bcgd.tflite import single_operators
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.utils import tables
from keras_bcgd.utils.checks import check_choice
from keras_bcgd.utils.checks import check_count

_WARM_UP = 5
# TensorFlow names a tensor after all that was fused into it.
_NAME_WIDTH = 40


@dataclasses.dataclass
class Latency:
    """Milliseconds of one call.

    Attributes:
        median: Float.
        lower_quartile: Float.
        upper_quartile: Float.
    """

    median: float
    lower_quartile: float
    upper_quartile: float


@dataclasses.dataclass
class OperatorLatency:
    """One operator, timed in a file of its own.

    Attributes:
        name: String: `"CONV_2D"`.
        output_name: String, the tensor that it computes.
        latency: `Latency`, or `None` if it does not run on its own.
    """

    name: str
    output_name: str
    latency: Latency | None


@dataclasses.dataclass
class FileLatency:
    """One file.

    Attributes:
        path: String.
        latency: `Latency`.
        ratio: Float, the median over the rounds of its time over that of the
            first file.
        operators: List of `OperatorLatency`; empty unless asked for.
    """

    path: str
    latency: Latency
    ratio: float
    operators: list


@dataclasses.dataclass
class LatencyReport:
    """What `benchmark_tflite` measured; `str(report)` is a table.

    Attributes:
        kernels: String.
        threads: Int.
        runs: Int, rounds.
        files: List of `FileLatency`, in the order given.

    Example:

    ```python
    report = keras_bcgd.benchmark_tflite("digits.tflite", runs=10)
    print(report.files[0].latency.median, "ms")
    ```
    """

    kernels: str
    threads: int
    runs: int
    files: list

    def __str__(self):
        lines = [
            f"{self.kernels} kernels, {_count(self.threads, 'thread')}, "
            f"{_count(self.runs, 'round')}; milliseconds"
        ]
        rows = [("file", "median", "quartiles", "of the first")]
        rows += [
            (file.path, *_times(file.latency), f"{file.ratio:.3f}")
            for file in self.files
        ]
        lines += tables.columns(rows)
        for file in self.files:
            if file.operators:
                lines += ["", *_operator_lines(file)]
        return "\n".join(lines)


def _count(number, noun):
    return f"{number} {noun}" + ("s" if number > 1 else "")


def _times(latency):
    if latency is None:
        return "-", "-"
    low, high = latency.lower_quartile, latency.upper_quartile
    return f"{latency.median:.4f}", f"{low:.4f}..{high:.4f}"


def _operator_lines(file):
    medians = [op.latency.median for op in file.operators if op.latency]
    rows = [("operator", "computes", "median", "quartiles", "share")]
    for operator in file.operators:
        share = "-"
        if operator.latency:
            share = f"{operator.latency.median / sum(medians):.1%}"
        times = _times(operator.latency)
        output = operator.output_name
        if len(output) > _NAME_WIDTH:
            output = f"...{output[3 - _NAME_WIDTH :]}"
        rows.append((operator.name, output, *times, share))
    return [
        f"{file.path}: operators one by one",
        *tables.columns(rows, left=2),
        f"sum {sum(medians):.4f}, the whole file {file.latency.median:.4f}",
    ]


def benchmark_tflite(
    paths, threads=1, runs=50, kernels="xnnpack", per_op=False, verbose=0
):
    """Times one or several TFLite files.

    Each round calls every file once, so that a change of the machine's speed
    falls on all of them and the ratios stay true. Only the call of the runtime
    is timed, and each timed call follows one that is not, of the same file, so
    that none finds the caches full of something else. Inputs are random.

    Operators are timed in files of their own, all of them in each round. There
    they cannot be fused with their neighbours, and each adds the cost of a
    call: their sum is not the time of the file.

    Args:
        paths: String or path-like, a file, or a list of them.
        threads: Int. Defaults to `1`.
        runs: Int, the number of rounds. Defaults to `50`.
        kernels: String: `"xnnpack"`, `"builtin"` or `"reference"`. Defaults
            to `"xnnpack"`.
        per_op: Boolean. Whether to time each operator as well. Defaults to
            `False`.
        verbose: Int. `1` shows a progress bar. Defaults to `0`.

    Returns:
        A `LatencyReport`; printed, it is a table.

    Raises:
        ValueError: If an argument is not one of the above, or a file is
            damaged.
        OSError: If a file cannot be read.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    keras_bcgd.export_tflite(
        model,
        "digits_int4.tflite",
        input_range=(0, 1),
        weight_format="auto",
    )
    paths = ["digits.tflite", "digits_int4.tflite"]
    print(keras_bcgd.benchmark_tflite(paths, per_op=True))
    ```
    """
    check_choice("kernels", kernels, KERNELS)
    check_count("threads", threads)
    check_count("runs", runs)
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    if not paths:
        raise ValueError(f"`paths` must have a file. Received: paths={paths!r}")
    files = [reader.read_tflite(path) for path in paths]
    calls = [_prepare(file.path, kernels, threads) for file in files]
    singles = [
        _prepare_singles(file, kernels, threads) if per_op else []
        for file in files
    ]
    progress = keras.utils.Progbar(
        runs * (1 + per_op), verbose=verbose, unit_name="round"
    )
    times = _time(calls, runs, progress, warm_caches=True)
    flat = [call for part in singles for _, call in part if call is not None]
    single_times = iter(_time(flat, runs, progress) if per_op else [])
    return LatencyReport(
        kernels=kernels,
        threads=threads,
        runs=runs,
        files=[
            FileLatency(
                path=file.path,
                latency=_latency(own),
                ratio=float(np.median(own / times[0])),
                operators=[
                    OperatorLatency(
                        operator.name,
                        operator.outputs[0].name if operator.outputs else "",
                        None if call is None else _latency(next(single_times)),
                    )
                    for operator, call in part
                ],
            )
            for file, own, part in zip(files, times, singles, strict=True)
        ],
    )


def _prepare(path, kernels, threads):
    """A function that runs a file on random inputs."""
    interpreter = load_interpreter(path, kernels, threads=int(threads))
    _run_on_random(interpreter)
    return interpreter.invoke


def _run_on_random(interpreter):
    rng = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        values = _random(rng, details["shape"], np.dtype(details["dtype"]))
        interpreter.set_tensor(details["index"], values)
    interpreter.invoke()


def _random(rng, shape, dtype):
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape, dtype)
    # Sizes and indices: 0 is one of them.
    return np.zeros(shape, dtype)


def _prepare_singles(file, kernels, threads):
    """`(operator, function)` for each operator.

    The function runs it on what it is given in a run of the whole file, and is
    `None` if it does not run on its own: it calls other subgraphs, keeps a
    state, or is in a subgraph that others call.
    """
    whole = load_interpreter(file.path, "builtin", keep_tensors=True)
    _run_on_random(whole)
    pairs = []
    for operator in file.operators:
        try:
            call = _prepare_single(file, operator, whole, kernels, threads)
        except (ValueError, RuntimeError):
            call = None
        pairs.append((operator, call))
    return pairs


def _prepare_single(file, operator, whole, kernels, threads):
    if operator.subgraph > 0:
        return None
    contents, given = single_operators.single_operator_file(file, operator)
    interpreter = load_interpreter(contents, kernels, threads=int(threads))
    for details, index in zip(
        interpreter.get_input_details(), given, strict=True
    ):
        interpreter.set_tensor(details["index"], whole.get_tensor(index))
    interpreter.invoke()
    return interpreter.invoke


def _time(calls, runs, progress, warm_caches=False):
    """Milliseconds, an array of shape `(calls, runs)`."""
    for _ in range(_WARM_UP):
        for call in calls:
            call()
    times = np.zeros((len(calls), runs))
    for run in range(runs):
        for i, call in enumerate(calls):
            if warm_caches:
                call()
            start = time.perf_counter_ns()
            call()
            times[i, run] = (time.perf_counter_ns() - start) / 1e6
        progress.add(1)
    return times


def _latency(times):
    low, median, high = np.percentile(times, [25, 50, 75])
    return Latency(float(median), float(low), float(high))
