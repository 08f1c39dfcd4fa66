"""What the flags of the ImageNet program become, by stage and replicas."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the program is TensorFlow's", True)

import imagenet_resnet18
from absl import app
from absl.testing import flagsaver

FLAGS = imagenet_resnet18.FLAGS
COUNTED = ("batch_size", "learning_rate", "warmup_epochs")


@pytest.fixture(autouse=True)
def given():
    """A command without flags but the needed one."""
    with flagsaver.flagsaver():
        FLAGS(["program", "--workdir=run"])
        yield


def counted(stage, replicas):
    found = imagenet_resnet18.settings(stage, replicas)
    return tuple(found[name] for name in COUNTED)


def test_replicas_share_the_batch():
    for replicas in (1, 8):
        assert counted("float", replicas) == (256, 0.1, 0)
        assert counted("quantized", replicas) == (256, 0.01, 0)


def test_batch_and_learning_rate_grow_with_the_replicas():
    FLAGS.scale_with_replicas = True
    assert counted("float", 1) == (256, 0.1, 5)
    assert counted("float", 8) == (2048, 0.8, 5)
    assert counted("quantized", 8) == (2048, 0.08, 5)
    FLAGS.warmup_epochs = 2.0
    FLAGS.batch_size = 3
    FLAGS.learning_rate = 0.5
    assert counted("quantized", 4) == (12, 2, 2)


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(app.UsageError, match="among 3 replicas"):
        imagenet_resnet18.settings("float", 3)


def test_the_float_stage_has_its_own_flags():
    FLAGS.float_epochs = 7
    FLAGS.epochs = 9
    FLAGS.weight_bits = 1
    found = imagenet_resnet18.settings("float", 1)
    assert (found["epochs"], found["weight_bits"]) == (7, 32)
    found = imagenet_resnet18.settings("quantized", 1)
    assert (found["epochs"], found["weight_bits"]) == (9, 1)
