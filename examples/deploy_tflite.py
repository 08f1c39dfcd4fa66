"""Deploys a trained network: align, export, verify, compare, measure.

    python examples/deploy_tflite.py --model=runs/resnet20_4w4a/model.keras \\
        --float_model=runs/resnet20_float/model.keras --out=deployed

`--model` is a network that examples/cifar10.py trained, `--float_model` its
float twin, from which TensorFlow and ai-edge-quantizer make their files for
comparison; without it they are left out. The folder `--out` gets the aligned
model, its .tflite files and report.json. The images go into the files as the
bytes that they are.
"""

import json
import os
import time

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bcgd
from training import cifar10_data
from training import deployment
from training import rivals

# How each file is exported; the first one by default.
VARIANTS = {
    "int8": {},
    "int8_logits": {"output_type": "int8", "task": "classification"},
    "int4": {"weight_format": "auto"},
    "not_aligned": {"align": False},
}

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The trained .keras file.", required=True)
flags.DEFINE_string("float_model", None, "Its float twin, for comparison.")
flags.DEFINE_string("out", "deployed", "Folder for the files.")
deployment.define_flags()
flags.DEFINE_integer("runs", 100, "Rounds of the latency measurement.")


def predictions(model, x):
    return np.argmax(model.predict(x, batch_size=500, verbose=0), axis=1)


def alignment(model, exported, x, y, seconds):
    """What the alignment did to the network as it was trained."""
    before, after = predictions(model, x), predictions(exported.model, x)
    moved = exported.alignments
    return {
        "accuracy_as_trained": float(np.mean(before == y)),
        "accuracy_aligned": float(np.mean(after == y)),
        "same_predictions": float(np.mean(before == after)),
        "largest_slope_change": max((a.slope_change for a in moved), default=0),
        "largest_alpha_change": max(
            (abs(a.alpha_change) for a in moved), default=0
        ),
        "largest_shift_in_steps": max((a.shift for a in moved), default=0),
        "seconds_of_export": seconds,
    }


def sizes(path):
    report = keras_bcgd.inspect_tflite(path)
    return {
        "file_bytes": report.file_bytes,
        "gzip_bytes": report.gzip_bytes,
        "weight_bytes": report.weight_bytes,
        "bias_bytes": report.bias_bytes,
        "other_bytes": report.other_bytes,
        "entropy_bytes": report.entropy_bytes,
        "is_integer": report.is_integer,
    }


def packed_bytes(model):
    """Bits times weights: what no file format beats without a coder."""
    bits = 0
    for layer in model.layers:
        if hasattr(layer, "kernel_scale_and_codes"):
            bits += int(np.prod(layer.kernel.shape)) * min(layer.bits, 8)
    return bits // 8


def compared(float_model, calibration, x, y, folder):
    """Files that other tools make of the float twin."""
    expected = predictions(float_model, x)
    paths = rivals.tensorflow_files(float_model, calibration, folder)
    paths["ai_edge_int4"] = rivals.ai_edge_int4(
        paths["float32"], calibration, folder
    )
    result = {}
    for name, path in paths.items():
        if path is None:
            continue
        found = rivals.run_any(path, x)
        result[name] = {
            "path": path,
            **sizes(path),
            "file_accuracy": float(np.mean(found == y)),
            "equal_to_float_model": float(np.mean(found == expected)),
        }
    result["float_model_accuracy"] = float(np.mean(expected == y))
    return result


def latencies(paths):
    """Milliseconds of one image on one thread, all files in turn."""
    report = keras_bcgd.benchmark_tflite(
        list(paths.values()), threads=1, runs=FLAGS.runs, verbose=1
    )
    print(report)
    return {
        name: {
            "median_ms": file.latency.median,
            "quartiles_ms": [
                file.latency.lower_quartile,
                file.latency.upper_quartile,
            ],
            "ratio_to_first": file.ratio,
        }
        for name, file in zip(paths, report.files, strict=True)
    }


def main(_):
    os.makedirs(FLAGS.out, exist_ok=True)
    calibration, x, y = deployment.load_inputs()
    model = keras.models.load_model(FLAGS.model, compile=False)
    report = {"model": FLAGS.model, "packed_bytes": packed_bytes(model)}
    paths = {}
    for name, settings in VARIANTS.items():
        paths[name] = os.path.join(FLAGS.out, f"{name}.tflite")
        row = report[name] = {}
        start = time.monotonic()
        exported = keras_bcgd.export_tflite(
            model,
            paths[name],
            cifar10_data.input_range(FLAGS.normalization),
            representative_data=calibration,
            **settings,
        )
        seconds = time.monotonic() - start
        print(exported, "\n")
        if exported.alignments:
            row["alignment"] = alignment(model, exported, x, y, seconds)
            exported.model.save(os.path.join(FLAGS.out, f"{name}.keras"))
        row["not_exact"] = exported.inexact
        row["not_exact_on_all_kernels"] = exported.inexact_elsewhere
        row.update(sizes(paths[name]))
        counts = deployment.counts_on_litert()
        if not settings.get("align", True):
            counts = {"xnnpack": counts["xnnpack"]}
        row.update(
            deployment.verified(exported.model, paths[name], x, y, counts)
        )
    if FLAGS.float_model:
        float_model = keras.models.load_model(FLAGS.float_model, compile=False)
        others = compared(float_model, calibration, x, y, FLAGS.out)
        report["rivals"] = others
        for name in ("int8_ptq", "float32"):
            paths[name] = others[name]["path"]
        paths = {"int8_ptq": paths.pop("int8_ptq"), **paths}
    del paths["not_aligned"]
    report["latency"] = latencies(paths)
    path = os.path.join(FLAGS.out, "report.json")
    with open(path, "w") as file:
        json.dump(report, file, indent=1)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    app.run(main)
