"""Deploys a trained network for microcontrollers and NPUs, and measures it.

    python examples/deploy_micro.py --model=runs/resnet20_1w4a/model.keras \\
        --float_model=runs/resnet20_float/model.keras --name="ResNet-20 1W4A" \\
        --out=deployed --results=results/microcontrollers.json

`--model` is a network that examples/cifar10.py trained; `--float_model` is its
float twin, which TensorFlow quantizes to int8 for comparison. The folder
`--out` gets the files: int8, int4, in tables for TensorFlow Lite Micro, and for
Arm's Ethos-U. Each runs where it can: on LiteRT, in TensorFlow Lite Micro's
interpreter, which has to be installed (`tflite-micro`), and through Vela, Arm's
compiler for Ethos-U (`ethos-u-vela`), which estimates flash, memory and time
and is left out where it is not.

`--results` gets one row for each `--name`, and the table of all of them is
printed. With `--table_only` that is all.
"""

import os
import pathlib

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bcgd
from training import cifar10_data
from training import deployment
from training import rivals
from training import vela
from training import workdir as workdirs

# How each file is exported.
VARIANTS = {
    "int8": {},
    "int4": {"weight_format": "auto"},
    "lut": {"weight_format": "lut"},
    "ethos_u": {"target": "ethos-u"},
}
# Enough for the networks of cifar10.py.
ARENA_BYTES = 64 * 2**20
COLUMNS = (
    "network",
    "training",
    "accuracy",
    "int8",
    "int4",
    "tables",
    "equal: XNNPACK / builtin / reference",
    "equal: TFLM, tables",
    "values on TFLM unlike int8's",
)
VELA_COLUMNS = (
    "network",
    "file",
    "flash",
    "SRAM",
    "time",
    "operators on the CPU",
)

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The trained .keras file.")
flags.DEFINE_string("float_model", None, "Its float twin, for comparison.")
flags.DEFINE_string("name", "network", "What the row of the table is called.")
flags.DEFINE_string("training", "", "How it was trained, for the table.")
flags.DEFINE_string("out", "deployed_micro", "Folder for the files.")
flags.DEFINE_string("results", None, "JSON file that gets the row.")
flags.DEFINE_bool("table_only", False, "Print the table of --results.")
deployment.define_flags()
flags.DEFINE_integer(
    "micro_images", 1000, "On TensorFlow Lite Micro, of the file in tables."
)
flags.DEFINE_integer(
    "compared_images",
    1000,
    "Of the int8 file there, of the int4 file if it runs there, and for the "
    "comparison with int8.",
)
flags.DEFINE_string(
    "accelerator", "ethos-u55-128", "Which Ethos-U Vela compiles for."
)


def counts(variant, path):
    """On how many images a file runs, by kernels."""
    on_tflm = {"micro": FLAGS.compared_images}
    on_default = {"xnnpack": FLAGS.test_images}
    return {
        "int8": deployment.counts_on_litert() | on_tflm,
        "int4": on_default | (on_tflm if runs_on_tflm(path) else {}),
        "lut": {"micro": FLAGS.micro_images},
        "ethos_u": on_default,
    }[variant]


def runs_on_tflm(path):
    """TFLM has no int4 weights in dense layers, nor in 1x1 convolutions."""
    return not any(
        row.name == "FULLY_CONNECTED" and row.weight_dtype == "int4"
        for row in keras_bcgd.inspect_tflite(path).operators
    )


def different_on_tflm(paths, x):
    """How many values two files give that differ, of how many."""
    found = [codes_on_tflm(path, x) for path in paths]
    return int(np.sum(found[0] != found[1])), found[0].size


def codes_on_tflm(path, x):
    """The codes of the output, by TensorFlow Lite Micro's interpreter."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=ARENA_BYTES)
    scales = interpreter.get_input_details(0)["quantization_parameters"]
    (scale,), (zero_point,) = scales["scales"], scales["zero_points"]
    codes = np.clip(np.round(x / scale) + zero_point, -128, 127)
    found = []
    progress = keras.utils.Progbar(len(x))
    for i, image in enumerate(codes.astype("int8")):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0).copy())
        progress.update(i + 1)
    return np.concatenate(found)


def measured(model, calibration, x, y):
    """The row of one network."""
    row = {"name": FLAGS.name, "training": FLAGS.training, "files": {}}
    paths = {}
    for variant, settings in VARIANTS.items():
        path = os.path.join(FLAGS.out, f"{variant}.tflite")
        exported = keras_bcgd.export_tflite(
            model,
            path,
            cifar10_data.input_range(FLAGS.normalization),
            representative_data=calibration,
            **settings,
        )
        print(exported, "\n")
        paths[variant] = path
        row["files"][variant] = {
            "bytes": exported.file_bytes,
            "not_exact": exported.inexact,
            "not_exact_on_all_kernels": exported.inexact_elsewhere,
            "stored": {
                layer.name: layer.weight_type
                for layer in exported.layers
                if layer.weight_bits
            },
        } | deployment.verified(
            exported.model, path, x, y, counts(variant, path)
        )
    different, values = different_on_tflm(
        [paths["int8"], paths["lut"]], x[: FLAGS.compared_images]
    )
    row["lut_values_unlike_int8"] = different
    row["lut_values"] = values
    row["vela"] = {"ours": vela.estimate(paths["ethos_u"], FLAGS.accelerator)}
    return row


def with_rival(row, float_model, calibration, x, y):
    """The row with the float twin's int8 file by TensorFlow."""
    paths = rivals.tensorflow_files(float_model, calibration, FLAGS.out)
    path = paths["int8_ptq"]
    row["ptq"] = {
        "bytes": os.path.getsize(path),
        "file_accuracy": float(np.mean(rivals.run_any(path, x) == y)),
    }
    row["vela"]["ptq"] = vela.estimate(path, FLAGS.accelerator)
    return row


def merged(rows, row):
    """The rows with one more, or with one of its name replaced."""
    return [one for one in rows if one["name"] != row["name"]] + [row]


def _shares(*kinds):
    return " / ".join(
        f"{one['equal']:,} of {one['samples']:,}"
        + (f", {_ties(one['ties'])}" if one["ties"] else "")
        for one in kinds
    )


def _ties(count):
    return f"{count} tie" + ("s" if count > 1 else "")


def table(rows):
    """Markdown: sizes and equal predictions."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in rows:
        files = row["files"]
        int8 = files["int8"]
        lines.append(
            (
                row["name"],
                row["training"],
                f"{100 * int8['xnnpack']['file_accuracy']:.2f}",
                *(f"{files[v]['bytes']:,}" for v in ("int8", "int4", "lut")),
                _shares(
                    *(int8[k] for k in ("xnnpack", "builtin", "reference"))
                ),
                _shares(files["lut"]["micro"]),
                f"{row['lut_values_unlike_int8']} of {row['lut_values']:,}",
            )
        )
    return _markdown(lines)


def vela_table(rows):
    """Markdown: what Vela estimates."""
    lines = [VELA_COLUMNS, ("---",) * len(VELA_COLUMNS)]
    titles = {"ours": "keras-bcgd", "ptq": "int8 by TensorFlow"}
    for row in rows:
        for kind, found in row["vela"].items():
            if found is not None:
                lines.append(
                    (
                        row["name"],
                        titles[kind],
                        f"{found['flash_kib']:,.1f} KiB",
                        f"{found['sram_kib']:,.1f} KiB",
                        f"{found['milliseconds']:.2f} ms",
                        str(found["cpu_operators"]),
                    )
                )
    return _markdown(lines)


def _markdown(lines):
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read_rows(path):
    """The rows of a results file, none if there is no file."""
    if path is None or not os.path.exists(path):
        return []
    return workdirs.read_json(path)


def main(_):
    rows = read_rows(FLAGS.results)
    if not FLAGS.table_only:
        if FLAGS.model is None:
            raise app.UsageError("--model is required.")
        os.makedirs(FLAGS.out, exist_ok=True)
        calibration, x, y = deployment.load_inputs()
        model = keras.models.load_model(FLAGS.model, compile=False)
        row = measured(model, calibration, x, y)
        if FLAGS.float_model:
            twin = keras.models.load_model(FLAGS.float_model, compile=False)
            row = with_rival(row, twin, calibration, x, y)
        rows = merged(rows, row)
        workdirs.write_json(pathlib.Path(FLAGS.out, "report.json"), row)
        if FLAGS.results:
            workdirs.write_json(pathlib.Path(FLAGS.results), rows)
    print(table(rows), vela_table(rows), sep="\n\n")


if __name__ == "__main__":
    app.run(main)
