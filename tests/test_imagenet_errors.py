"""What the ImageNet program says of errors within TensorFlow."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the program is TensorFlow's", True)

import tensorflow as tf

from imagenet import errors

REFUSED = (
    "Graph execution error:\nCollective ops is aborted by: failed to connect "
    "to all addresses; last error: ipv4:127.0.0.1:1: Connection refused\n"
    "Restart your program"
)
GONE = "Another machine does not answer any more"
DATA = "A file of the data cannot be read"
MEMORY = "There is not enough memory"
UNKNOWN = "Traceback"
CASES = [
    (tf.errors.UnavailableError, REFUSED, GONE),
    (tf.errors.UnavailableError, "Socket closed", GONE),
    (tf.errors.AbortedError, "no reason", GONE),
    (tf.errors.InternalError, REFUSED, GONE),
    (tf.errors.ResourceExhaustedError, "OOM when allocating 9 GB", MEMORY),
    (tf.errors.DataLossError, "corrupted record at 1028", DATA),
    (tf.errors.DataLossError, "truncated record at 16' failed", DATA),
    (
        tf.errors.NotFoundError,
        "/d/imagenet2012-train.tfrecord-00000-of-01024; No such file",
        DATA,
    ),
    (
        tf.errors.UnknownError,
        "/d/imagenet2012-train.tfrecord-00000-of-01024; Input/output error",
        DATA,
    ),
    (tf.errors.NotFoundError, "No algorithm worked!", UNKNOWN),
    (tf.errors.InternalError, "CUDNN_STATUS_EXECUTION_FAILED", UNKNOWN),
    (tf.errors.InvalidArgumentError, "Invalid JPEG data", UNKNOWN),
]


def explained(kind, message, workers):
    try:
        raise kind(None, None, message)
    except tf.errors.OpError as error:
        return errors.explain(error, workers)


@pytest.mark.parametrize(("kind", "message", "expected"), CASES)
def test_on_several_machines(kind, message, expected):
    text = explained(kind, message, workers=2)
    assert text.startswith(expected)
    assert message.partition("\n")[0] in text or expected == GONE


@pytest.mark.parametrize(("kind", "message", "expected"), CASES)
def test_on_one_machine(kind, message, expected):
    """There is no other one that could be gone."""
    expected = UNKNOWN if expected == GONE else expected
    assert explained(kind, message, workers=1).startswith(expected)


def test_the_line_that_matters_is_shown():
    text = explained(tf.errors.UnavailableError, REFUSED, workers=2)
    assert "Connection refused" in text
    assert "Graph execution error" not in text
    message = "Graph execution error:\nOOM when allocating 9 GB\n[[{{node}}]]"
    text = explained(tf.errors.ResourceExhaustedError, message, workers=1)
    assert "memory: OOM when allocating 9 GB\n" in text
    assert "--batch_size" in text
