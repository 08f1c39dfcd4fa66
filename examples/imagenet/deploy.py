"""The end of the ImageNet program: the integer file, verified, and a summary.

The summary holds the network's accuracies beside those of the slides.
"""

import os
import pathlib

import keras
import numpy as np

import keras_bcgd
from imagenet import data as imagenet_data
from training import workdir as workdirs

# Slides "ImageNet": top-1 and top-5 of ResNet-18 in %, with blending if not
# said otherwise.
SLIDES = {
    "float": (69.64, 88.98),
    "1W4A, three-valued": (64.36, 85.65),
    "1W4A, two-valued": (63.37, 84.93),
    "4W4A, three-valued": (67.36, 87.76),
    "4W4A, two-valued": (66.97, 87.41),
    "4W8A, three-valued": (68.85, 88.71),
    "4W8A, two-valued": (68.83, 88.84),
    "1W4A, not blended": (62.98, None),
    "1W4A, first and last layer in float": (65.46, None),
}
_IMAGENET = (1_281_167, 50_000)


def deploy(stage, path, weight_format, verify_images):
    """Aligns, exports and verifies a trained stage; writes the summary.

    Args:
        stage: `Stage`, the quantized one, trained.
        path: Path of the folder for aligned.keras, model.tflite, summary.json
            and summary.txt.
        weight_format: String, see `keras_bcgd.export_tflite`.
        verify_images: Int, validation images that both are run on.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    model = _in_float32(stage)
    ranges = {
        "input_range": imagenet_data.input_range(stage.config["normalization"]),
        "representative_data": stage.calibration_images(),
        "weight_format": weight_format,
    }
    x, y = stage.validation_images(verify_images)
    trained = _accuracy(model, x, y)
    tflite = path / "model.tflite"
    exported = keras_bcgd.export_tflite(model, tflite, verbose=1, **ranges)
    model = exported.model
    workdirs.save_model(model, path / "aligned.keras")
    print(exported, flush=True)
    verified = keras_bcgd.verify_tflite(
        model, tflite, x, y, trace=False, verbose=1
    )
    print(verified, flush=True)
    summary = {
        **workdirs.read_json(stage.path / "result.json"),
        "verified_images": verified.samples,
        "top1_of_them_as_trained": trained,
        "top1_of_them_aligned": verified.model_accuracy,
        "top1_of_them_by_the_file": verified.file_accuracy,
        "equal_predictions": verified.equal,
        "ties": verified.ties,
        "differences_inside": verified.inside_differences,
        "inexact_thresholds": exported.inexact_thresholds,
        "not_exact": exported.inexact,
        "file_bytes": os.path.getsize(tflite),
    }
    workdirs.write_json(path / "summary.json", summary)
    text = describe(summary)
    workdirs.write_whole(
        path / "summary.txt", lambda file: file.write_text(text, "utf-8")
    )
    print(text, flush=True)


def _in_float32(stage):
    """The trained network, whatever the precision that it was trained in."""
    trained = keras.models.load_model(stage.model_path, compile=False)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        model = stage.make_model()
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(trained.get_weights())
    return model


def _accuracy(model, x, y):
    found = np.argmax(model.predict(x, batch_size=50, verbose=0), axis=1)
    return float(np.mean(found == y))


def describe(summary):
    """The summary in words, with the slides' table."""
    config = summary["config"]
    name = f"{config['weight_bits']}W{config['activation_bits']}A"
    images = (summary["train_images"], summary["validation_images"])
    lines = [f"ResNet-18, {name}: top-1 / top-5 in %", ""]
    for row, (top1, top5) in SLIDES.items():
        top5 = "  --  " if top5 is None else f"{top5:6.2f}"
        lines.append(f"  slides, {row:36} {top1:6.2f} / {top5}")
    gradient = config["alpha_gradient"].replace("_", "-")
    details = f"{name}, {gradient}, rho = {config['blending']:g}"
    if config["first_last_float"]:
        details += ", ends float"
    lines.append(
        f"  here,   {details:36} {100 * summary['top1_last']:6.2f} / "
        f"{100 * summary['top5_last']:6.2f}"
    )
    lines.append("")
    if images != _IMAGENET:
        lines.append(
            f"REDUCED: {images[0]} training and {images[1]} validation images "
            "only. This is no ImageNet accuracy."
        )
    lines += [
        f"{config['epochs']} epochs, batch {config['batch_size']}, "
        f"{config['image_size']} pixels, seed {config['seed']}, recipe "
        f"{config['recipe']}, {summary['seconds'] / 3600:.2f} h on "
        f"{summary['replicas']}: {summary['machine']}",
        "",
        f"model.tflite: {summary['file_bytes'] / 1e6:.2f} MB; on "
        f"{summary['verified_images']} validation images",
        f"  top-1 as trained {summary['top1_of_them_as_trained']:.2%}, aligned "
        f"{summary['top1_of_them_aligned']:.2%}, the file's "
        f"{summary['top1_of_them_by_the_file']:.2%}",
        f"  {summary['equal_predictions']} predictions of file and aligned "
        f"model are equal, {summary['ties']} others are ties, "
        f"{summary['differences_inside']} differ inside the network",
    ]
    return "\n".join(lines) + "\n"
