"""What the flags of the ImageNet program become, by stage and replicas."""

import json
import subprocess
import sys

import keras
import pytest
import workers

if keras.backend.backend() != "tensorflow":
    pytest.skip("the program is TensorFlow's", True)

COUNTED = ("batch_size", "learning_rate", "warmup_epochs")
GROW = ("--scale_with_replicas",)
OWN = (*GROW, "--warmup_epochs=2", "--batch_size=3", "--learning_rate=.5")
BY_STAGE = ("--float_epochs=7", "--epochs=9", "--weight_bits=1")
# Flags, stage, replicas.
GIVEN = [
    ((), "float", 1),
    ((), "float", 8),
    ((), "quantized", 1),
    ((), "quantized", 8),
    (GROW, "float", 1),
    (GROW, "float", 8),
    (GROW, "quantized", 8),
    (OWN, "quantized", 4),
    (BY_STAGE, "float", 1),
    (BY_STAGE, "quantized", 1),
    ((), "float", 3),
]
PROGRAM = """
import json, sys
import imagenet_resnet18 as program
from absl import app
found = []
for flags, stage, replicas in json.loads(sys.argv[1]):
    program.FLAGS.unparse_flags()
    for name in program.FLAGS:
        program.FLAGS[name].unparse()
    program.FLAGS(["program", "--workdir=run", *flags])
    try:
        found.append(program.settings(stage, replicas))
    except app.UsageError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def settings():
    """Of all that is given; in a process that has no other program's flags."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(GIVEN)],
        env=workers.environment(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(GIVEN, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (((), "float", 1), (256, 0.1, 0)),
        (((), "float", 8), (256, 0.1, 0)),
        (((), "quantized", 1), (256, 0.01, 0)),
        (((), "quantized", 8), (256, 0.01, 0)),
        ((GROW, "float", 1), (256, 0.1, 5)),
        ((GROW, "float", 8), (2048, 0.8, 5)),
        ((GROW, "quantized", 8), (2048, 0.08, 5)),
        ((OWN, "quantized", 4), (12, 2, 2)),
    ],
)
def test_batch_and_learning_rate(settings, given, expected):
    """They grow with the replicas if asked to."""
    found = settings[given]
    assert tuple(found[name] for name in COUNTED) == expected


def test_the_float_stage_has_its_own_flags(settings):
    for stage, expected in (("float", (7, 32)), ("quantized", (9, 1))):
        found = settings[BY_STAGE, stage, 1]
        assert (found["epochs"], found["weight_bits"]) == expected


def test_a_batch_that_cannot_be_divided(settings):
    assert "among 3 replicas" in settings[(), "float", 3]
