"""GitHub's files against the Makefile, setup.py and the version."""

import pathlib
import re

import keras_bcgd

ROOT = pathlib.Path(__file__).parents[1]
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def targets_of_workflows():
    paths = (ROOT / ".github" / "workflows").glob("*.yml")
    return {
        target
        for path in paths
        for target in MAKE.findall(path.read_text(encoding="utf-8"))
    }


def test_workflows_call_targets_of_the_makefile():
    known = re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE)
    assert targets_of_workflows() <= set(known)


def test_workflows_check_all_that_has_to_pass():
    loop = re.search(r"for target in (.*); do", read(".ci/run"))
    assert set(loop[1].split()) <= targets_of_workflows()


def test_pythons_of_the_workflow_are_those_of_the_package():
    """In the matrix of the tests, the classifiers and `python_requires`."""
    matrix = re.search(r"python: \[(.*)\]", read(".github/workflows/tests.yml"))
    tested = re.findall(r"3\.\d+", matrix[1])
    setup = read("setup.py")
    classifiers = re.findall(r"Python :: (3\.\d+)", setup)
    assert tested == classifiers
    assert re.search(r'python_requires=">=(.*)"', setup)[1] == tested[0]


def test_the_citation_is_of_this_version():
    version = re.search(r"^version: (.*)$", read("CITATION.cff"), re.MULTILINE)
    assert version[1] == keras_bcgd.__version__
