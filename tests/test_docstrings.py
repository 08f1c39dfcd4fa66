"""The examples in the docstrings run, and give what they show.

A `>>>` example needs nothing but its imports, which are `IMPORTS`; of what is
not public, the names of its module as well, as usual. A python block may also
use a trained model, its data and its file, as the docs say.
"""

import doctest
import importlib
import inspect
import pkgutil
import re

import keras
import numpy as np
import pytest
from public_api import public_callables

import keras_bcgd
from keras_bcgd import theory

if keras.backend.backend() != "tensorflow":
    pytest.skip("the examples are run on TensorFlow", True)

import tensorflow as tf

IMPORTS = {
    "keras": keras,
    "keras_bcgd": keras_bcgd,
    "np": np,
    "tf": tf,
    "theory": theory,
}
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def docstrings_with_examples():
    """{name: `doctest.DocTest`} of the package, its private parts as well."""
    finder = doctest.DocTestFinder()
    modules = pkgutil.walk_packages(keras_bcgd.__path__, "keras_bcgd.")
    return {
        test.name: test
        for info in modules
        if info.name != "keras_bcgd.__main__"
        for test in finder.find(importlib.import_module(info.name))
        if test.examples or "```python" in test.docstring
    }


DOCSTRINGS = docstrings_with_examples()


def blocks(docstring):
    """The python blocks of a docstring."""
    return BLOCK.findall(inspect.cleandoc(docstring))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained model, its file, a float model; the images."""
    keras.utils.set_random_seed(0)
    x = np.random.randint(0, 256, (64, 8, 8, 1)).astype("float32") / 255
    y = np.random.randint(0, 10, 64)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras_bcgd.QuantConv2D(8, 3, bits=4, name="conv1"),
            keras.layers.BatchNormalization(),
            keras_bcgd.QuantReLU(bits=4, name="relu1"),
            keras.layers.Flatten(),
            keras_bcgd.QuantDense(10, bits=8, name="classifier"),
        ]
    )
    model.compile(
        keras_bcgd.BlendedOptimizer(keras.optimizers.SGD(0.05)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, verbose=0)
    folder = tmp_path_factory.mktemp("trained")
    model.save(folder / "model.keras")
    float_model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv1"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="classifier"),
        ]
    )
    float_model.compile("sgd", model.loss, metrics=["accuracy"])
    float_model.save(folder / "float_model.keras")
    keras_bcgd.export_tflite(model, folder / "digits.tflite", (0, 1), x)
    return folder, x, y


@pytest.fixture
def names(trained, tmp_path, monkeypatch):
    """What python blocks may use, in a folder that holds `digits.tflite`."""
    folder, x, y = trained
    content = (folder / "digits.tflite").read_bytes()
    (tmp_path / "digits.tflite").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    models = {
        name: keras.models.load_model(folder / f"{name}.keras")
        for name in ("model", "float_model")
    }
    data = {
        f"{name}_{part}": value
        for part in ("train", "test")
        for name, value in (("x", x), ("y", y))
    }
    return IMPORTS | models | {"loss": models["model"].loss} | data


@pytest.mark.parametrize("name", public_callables())
def test_everything_public_has_an_example(name):
    """One that the tests below run."""
    docstring = public_callables()[name].__doc__
    example = docstring.partition("Example:\n")[2]
    assert ">>>" in example or "```python" in example, name
    assert docstring in [test.docstring for test in DOCSTRINGS.values()]


@pytest.mark.parametrize(
    "name", [name for name, test in DOCSTRINGS.items() if test.examples]
)
def test_prompts_show_what_they_give(name):
    test = DOCSTRINGS[name]
    public = {value.__doc__ for value in public_callables().values()}
    test.globs = {} if test.docstring in public else dict(test.globs)
    test.globs |= IMPORTS
    found = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=found.append)
    assert not runner.failures, "".join(found)
    assert runner.tries == len(test.examples)


# TensorFlow's converter would like data, which the file does not need.
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, test in DOCSTRINGS.items()
        if "```python" in test.docstring
    ],
)
def test_blocks_run(name, names):
    for code in blocks(DOCSTRINGS[name].docstring):
        if "write_micro_sources(" in code:
            pytest.importorskip("tflite_micro", reason="it measures the arena")
        exec(compile(code, name, "exec"), names)
