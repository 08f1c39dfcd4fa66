"""How equal are the answers of ONNX files to those of Keras?

Exports trained CIFAR-10 networks, as they are and aligned for export, in both
formats, and runs test images in onnxruntime ("qcdq") and in the executor of
`qonnx` ("qonnx"):

    python benchmarks/onnx_agreement.py DIR/model.keras --images=1000

It prints one row for each file: how many predictions are equal, the largest
difference of logits, and how many images agree in all logits to 0.001.
"""

import argparse
import pathlib
import sys
import tempfile

import keras
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))

import keras_bcgd  # noqa: E402
from training import cifar10_data  # noqa: E402

_BATCH = 100
_CLOSE = 1e-3
_FORMATS = ("qcdq", "qonnx")


def in_onnxruntime(path):
    """The function that runs a batch in a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda x: session.run(["output"], {"input": x})[0]


def in_qonnx(path):
    """The same by the executor of `qonnx`, operator by operator."""
    from qonnx.core import onnx_exec
    from qonnx.core.modelwrapper import ModelWrapper

    model = ModelWrapper(path)
    return lambda x: onnx_exec.execute_onnx(model, {"input": x})["output"]


def row(name, format, model, x, path):
    """What is printed of one file."""
    batch = min(_BATCH, len(x))
    keras_bcgd.export_onnx(model, path, format, batch_size=batch)
    run = in_onnxruntime(path) if format == "qcdq" else in_qonnx(path)
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    found = np.concatenate(
        [run(images[i : i + batch]) for i in range(0, len(x), batch)]
    )
    expected = model.predict(x, batch_size=batch, verbose=0)
    differences = np.abs(found - expected).max(axis=1)
    equal = np.sum(found.argmax(1) == expected.argmax(1))
    close = np.sum(differences < _CLOSE)
    return (
        f"| {name} | {format} | {equal} of {len(x)} | "
        f"{differences.max():.2g} | {close} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help=".keras files")
    parser.add_argument("--data_dir", help="as examples/cifar10.py has it")
    parser.add_argument("--normalization", default="grid")
    parser.add_argument(
        "--images", type=int, default=1000, help="a multiple of 100"
    )
    parser.add_argument("--qonnx_images", type=int, default=100)
    options = parser.parse_args()

    (x_train, _), (x_test, _) = cifar10_data.load(options.data_dir)
    x_train, x_test = (
        cifar10_data.normalize(x, options.normalization)
        for x in (x_train[:500], x_test[: options.images])
    )
    print(
        "| network | format | equal | largest | close |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.onnx")
        for file in options.models:
            model = keras.saving.load_model(file, compile=False)
            for state in ("as trained", "aligned"):
                if state == "aligned":
                    keras_bcgd.align_for_export(
                        model, representative_data=x_train, verbose=0
                    )
                for format in _FORMATS:
                    count = options.qonnx_images if format == "qonnx" else None
                    name = f"{pathlib.Path(file).parent.name}, {state}"
                    print(
                        row(name, format, model, x_test[:count], path),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
