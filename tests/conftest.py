"""Seeds, a quiet log, and the ways in which a backend runs a function."""

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import pytest  # noqa: E402

COMPILERS = {"eager": lambda function: function}

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    # Two devices for MirroredStrategy. TensorFlow takes this only before it
    # starts.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    COMPILERS["graph"] = tf.function
    COMPILERS["xla"] = functools.partial(tf.function, jit_compile=True)

if keras.backend.backend() == "jax":
    import jax

    COMPILERS["jit"] = jax.jit


@pytest.fixture(scope="session")
def two():
    """A strategy of two replicas.

    It is the only one: TensorFlow takes the sums of a second one on the same
    devices for those of the first.
    """
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("needs two logical CPUs, set up before TensorFlow starts")
    return tf.distribute.MirroredStrategy([d.name for d in devices[:2]])


@pytest.fixture(autouse=True)
def seed():
    """Each test draws the same numbers, alone or after others."""
    keras.utils.set_random_seed(0)


@pytest.fixture(params=COMPILERS)
def compiled(request):
    """Each way to run a function of tensors: as it is, or compiled."""
    return COMPILERS[request.param]


@pytest.fixture
def float64():
    """Layers that are built now compute in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(params=["float64", "float32"])
def floatx(request):
    """Everything computes in float64, or in float32."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
