"""Files that other tools make of a float network, for comparison.

TensorFlow's converter: float32, and int8 by post-training quantization;
ai-edge-quantizer: weights of 4 bits.
"""

import os

import keras
import numpy as np


def tensorflow_files(model, calibration, folder):
    """The float32 file of the float twin and its int8 quantization."""
    import tensorflow as tf

    paths = {}
    for name in ("float32", "int8_ptq"):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if name == "int8_ptq":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: (
                [image[None]] for image in calibration
            )
            builtins = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            converter.target_spec.supported_ops = [builtins]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        paths[name] = os.path.join(folder, f"{name}.tflite")
        with open(paths[name], "wb") as file:
            file.write(converter.convert())
    return paths


def ai_edge_int4(float32_path, calibration, folder):
    """ai-edge-quantizer: int4 weights, int8 activations; `None` if it fails."""
    try:
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer import recipe
    except ImportError:
        print("ai-edge-quantizer is not installed: left out.")
        return None
    steps = recipe.static_wi8_ai8()
    for step in steps:
        step["op_config"]["weight_tensor_config"]["num_bits"] = 4
    path = os.path.join(folder, "ai_edge_int4.tflite")
    try:
        tool = quantizer.Quantizer(float32_path, steps)
        name = _signature_input(float32_path)
        samples = [{name: image[None]} for image in calibration[:100]]
        result = tool.calibrate({"serving_default": samples})
        tool.quantize(result, serialize_to_path=path)
    except Exception as error:  # any of its own errors: it is a rival, not us
        print(f"ai-edge-quantizer: {type(error).__name__}: {error}")
        return None
    return path


def _signature_input(path):
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(path)
    (name,) = runner.get_signature_list()["serving_default"]["inputs"]
    return name


def run_any(path, x):
    """The predictions of any file, with integer or float inputs."""
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(path)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    runner.resize_tensor_input(inputs[0]["index"], (1, *x.shape[1:]))
    runner.allocate_tensors()
    dtype, (scale, zero_point) = inputs[0]["dtype"], inputs[0]["quantization"]
    if scale:
        limits = np.iinfo(dtype)
        codes = np.round(x / scale) + zero_point
        x = np.clip(codes, limits.min, limits.max)
    found = []
    progress = keras.utils.Progbar(len(x))
    for i, image in enumerate(x.astype(dtype)):
        runner.set_tensor(inputs[0]["index"], image[None])
        runner.invoke()
        found.append(np.argmax(runner.get_tensor(outputs[0]["index"])))
        progress.update(i + 1)
    return np.array(found)
