"""Package metadata; everything else of the build is in pyproject.toml."""

import pathlib
import re

import setuptools

KERAS_MIN = "3.8"
NUMPY_MIN = "1.26"
# The version that pre-commit runs, see .pre-commit-config.yaml.
RUFF = "ruff==0.17.6"

ROOT = pathlib.Path(__file__).parent


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def version():
    """`__version__` as written in the source, which is not imported."""
    source = read("keras_bcgd/__init__.py")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)[1]


# Keras needs one backend, TensorFlow or JAX: the user picks it.
EXTRAS = {
    "tensorflow": ["tensorflow"],
    "jax": ["jax"],
    "export": ["ai-edge-litert", "flatbuffers"],
    # The interpreter of TensorFlow Lite Micro. Its versions are dates; there
    # are wheels for x86-64 Linux alone.
    "micro": [
        "tflite-micro>=0.dev20261023; "
        "platform_system == 'Linux' and platform_machine == 'x86_64'"
    ],
    "onnx": ["onnx"],
    "plots": ["matplotlib"],
    # Arm's compiler for Ethos-U, for examples/deploy_micro.py and slow tests.
    "vela": ["ethos-u-vela"],
    # The data of examples/keyword_spotting.py that are no synthetic ones.
    "watch": ["seglearn"],
    "lint": [RUFF, "check-jsonschema>=0.39"],
}
# Ruff formats the signatures.
EXTRAS["docs"] = [RUFF, "mkdocs-material", "mkdocstrings[python]"]
EXTRAS["examples"] = [
    *EXTRAS["tensorflow"],
    *EXTRAS["export"],
    *EXTRAS["micro"],
    *EXTRAS["plots"],
    "absl-py",
    "ai-edge-quantizer",
    # tensorflow-datasets asks for it without saying so.
    "importlib_resources",
    "scikit-learn",
    # To write curves without TensorFlow, and to look at them.
    "tensorboard",
    "tensorboardX",
    "tensorflow-datasets",
]
EXTRAS["test"] = [
    *EXTRAS["examples"],
    *EXTRAS["onnx"],
    "hypothesis",
    # What runs ONNX files: as they are, and with the operators of QONNX.
    "onnxruntime",
    "pytest",
    "pytest-xdist",
    "qonnx",
]

setuptools.setup(
    name="keras-bcgd",
    version=version(),
    description=(
        "Fully quantized Keras 3 networks by Blended Coarse Gradient Descent"
    ),
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_bcgd", "keras_bcgd.*"]),
    python_requires=">=3.11",
    install_requires=[f"keras>={KERAS_MIN}", f"numpy>={NUMPY_MIN}"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-bcgd = keras_bcgd.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="keras quantization binary ternary low-bit tflite",
)
