"""One of several processes that run a function below together.

Called with the file for what comes out, the number of devices of the process,
the function and its arguments.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
import test_replicas
import training_helpers
from tensorflow.python.distribute import collective_all_reduce_strategy

import keras_bcgd
from imagenet import data as imagenet_data
from imagenet.stage import Stage
from training import strategies
from training import workdir as workdirs


def train(strategy, floatx, synchronized):
    """Trains the network of test_replicas: all that it holds at the end."""
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    model = test_replicas.network(strategy, synchronized == "True")
    sums = test_replicas.train(model, strategy, *test_replicas.batches())
    found = {"sums": sums}
    for i, shadow in enumerate(training_helpers.shadows(model)):
        found[f"shadow{i}"] = shadow
    for i, layer in enumerate(training_helpers.quantized_layers(model)):
        scale, codes = layer.kernel_scale_and_codes()
        found |= {f"scale{i}": scale, f"codes{i}": codes}
        found[f"kernel{i}"] = keras.ops.convert_to_numpy(layer.kernel)
    for i, variable in enumerate(model.variables + model.optimizer.variables):
        found[f"variable{i}"] = keras.ops.convert_to_numpy(variable)
    return found


def overflow(strategy, half):
    """One step that overflows on one worker: see test_replicas."""
    before, after, factor = test_replicas.overflow(strategy, int(half))
    return {
        "factor": factor,
        **{f"before{i}": weights for i, weights in enumerate(before)},
        **{f"after{i}": weights for i, weights in enumerate(after)},
    }


def totals(strategy):
    """What the processes learn of one another's numbers."""
    index = strategies.index(strategy)
    return {
        "total": strategies.total(strategy, [[1 + index, 10.0**index]]),
        "of_chief": strategies.of_chief(strategy, [5 + index, np.pi]),
        "same": strategies.are_same(strategy, [3, -1]),
        "other": strategies.are_same(strategy, [3, index]),
    }


# Not by the program's flags: other programs, whose tests may run in the same
# process, have flags of the same names.
SETTINGS = {
    "epochs": 1,
    "batch_size": 8,
    "image_size": 32,
    "calibration_images": 4,
    "shuffle_images": 100,
    "warmup_epochs": 0,
    "sync_batch_norm": False,
    "alpha_start": "mse",
    "normalization": "grid",
    "schedule": "cosine",
    "learning_rate": 0.01,
    "momentum": 0.95,
    "blending": 1e-5,
    "alpha_learning_rate_multiplier": 0.01,
    "alpha_l2": 0.0,
    "blending_end": None,
    "l2": 1e-4,
    "seed": 0,
    "deterministic": True,
}


class SmallStage(Stage):
    """A stage of a small network, started otherwise in each process."""

    def make_model(self):
        model = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras_bcgd.QuantConv2D(4, 3, strides=4, bits=4),
                keras.layers.BatchNormalization(),
                keras_bcgd.QuantReLU(4),
                keras.layers.GlobalAveragePooling2D(),
                keras_bcgd.QuantDense(imagenet_data.CLASSES, bits=4),
            ]
        )
        self.model = model
        return model

    def _first_weights(self):
        factor = 1 + 0.01 * strategies.index(self.strategy)
        return [factor * w for w in self.make_model().get_weights()]


def stage(strategy, data_dir, workdir):
    """Trains a stage: what the model holds at the end, or the error."""
    own = SmallStage(
        workdir,
        SETTINGS,
        imagenet_data.prepared_builder(data_dir),
        strategy,
        start="a float network",
    )
    try:
        own.train(True, 10, 3)
    except workdirs.WorkdirError as error:
        return {"error": str(error)}
    variables = own.model.variables + own.model.optimizer.variables
    return {
        f"variable{i}": keras.ops.convert_to_numpy(variable)
        for i, variable in enumerate(variables)
    }


def make_strategy(devices):
    """With CPUs in the place of a machine's GPUs.

    TensorFlow itself takes several GPUs, but one CPU.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * devices)
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    extended._initialize_local_devices = lambda self, resolver, machine: (
        tuple(f"{machine}/device:CPU:{i}" for i in range(devices)),
        "CPU",
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


def main(path, devices, name, *args):
    strategy = make_strategy(int(devices))
    assert strategy.num_replicas_in_sync == 2 * int(devices)
    found = globals()[name](strategy, *args)
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
