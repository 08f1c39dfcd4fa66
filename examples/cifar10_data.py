"""Writes CIFAR-10 as one .npz file, for machines without TensorFlow.

tensorflow-datasets reads it, which needs TensorFlow: on a machine with JAX
alone, training takes the file that this program makes elsewhere:

    python examples/cifar10_data.py --data_dir=DIR --npz=cifar10.npz
    KERAS_BACKEND=jax python examples/cifar10.py --data_dir=cifar10.npz ...
"""

import os

from absl import app
from absl import flags

from training import cifar10_data


def main(_):
    path = flags.FLAGS.npz
    cifar10_data.write_npz(flags.FLAGS.data_dir, path)
    print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "tensorflow-datasets' folder.")
    flags.DEFINE_string("npz", "cifar10.npz", "The file to write.")
    app.run(main)
