"""Which strategy, and who is who among several processes."""

import json

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("distribution strategies are TensorFlow's", True)

import tensorflow as tf

from training import strategies


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No machine is described, and the CPU is not split again."""
    for name in ("TF_CONFIG", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "")  # as it is not set, at the end it is not
        monkeypatch.delenv(name)
    monkeypatch.setattr(
        tf.config, "set_logical_device_configuration", lambda *args: None
    )
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda: "several"
    )


def set_tf_config(monkeypatch, cluster, kind, index):
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


class Strategy:
    """What `MultiWorkerMirroredStrategy` says of the processes."""

    def __init__(self):
        self.cluster_resolver = (
            tf.distribute.cluster_resolver.TFConfigClusterResolver()
        )


def test_auto_takes_what_there_is(monkeypatch):
    assert strategies.make("auto") is tf.distribute.get_strategy()
    two = strategies.make("auto", cpu_devices=2)
    assert two.num_replicas_in_sync == 2
    addresses = ["a:1", "b:1"]
    set_tf_config(monkeypatch, {"worker": addresses[:1]}, "worker", 0)
    assert strategies.make("auto") is tf.distribute.get_strategy()
    set_tf_config(monkeypatch, {"worker": addresses}, "worker", 1)
    assert strategies.make("auto") == "several"
    cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    set_tf_config(monkeypatch, cluster, "worker", 0)
    assert strategies.make("auto") == "several"


@pytest.mark.parametrize(
    ("cluster", "tasks"),
    [
        ({"worker": ["a:1", "b:1"]}, [("worker", 0), ("worker", 1)]),
        (
            {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
            [("chief", 0), ("worker", 0), ("worker", 1)],
        ),
    ],
)
def test_the_first_process_is_chief(monkeypatch, cluster, tasks):
    for index, task in enumerate(tasks):
        set_tf_config(monkeypatch, cluster, *task)
        assert strategies.index(Strategy()) == index
        assert strategies.is_chief(Strategy()) == (index == 0)
        assert strategies.workers(Strategy()) == len(tasks)


def test_alone(monkeypatch):
    one = tf.distribute.get_strategy()
    assert strategies.is_chief(one)
    assert strategies.index(one) == 0
    assert strategies.workers(one) == 1
    assert strategies.total(one, [1, 2]).tolist() == [1, 2]
    assert strategies.of_chief(one, [1, 2]).tolist() == [1, 2]
    assert strategies.are_same(one, [1, 2])


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"cluster": ["a:1"]}',
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", '
        '"index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": '
        '"worker", "index": 0}}',
    ],
)
@pytest.mark.parametrize("name", ["auto", "multiworker"])
def test_a_tf_config_that_cannot_be_read(monkeypatch, text, name):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG must name the workers"):
        strategies.make(name)


def test_what_does_not_go_together(monkeypatch):
    with pytest.raises(ValueError, match="needs TF_CONFIG, or a start by srun"):
        strategies.make("multiworker")
    set_tf_config(monkeypatch, {"worker": ["a:1", "b:1"]}, "worker", 0)
    for name in ("none", "multiworker", "auto"):
        with pytest.raises(ValueError, match="--cpu_devices splits the CPU"):
            strategies.make(name, cpu_devices=2)


def set_slurm(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM{name}", str(value))


@pytest.mark.parametrize(
    ("nodes", "tasks_per_node", "expected"),
    [
        ("host[0-3]", "1(x4)", ["host0", "host1", "host2", "host3"]),
        ("gpu[8-11]", "1(x4)", ["gpu8", "gpu9", "gpu10", "gpu11"]),
        ("gpu[08-10,12]", "1(x4)", ["gpu08", "gpu09", "gpu10", "gpu12"]),
        ("n9,m[1-2]", "1(x3)", ["n9", "m1", "m2"]),
        ("gpu[9-10]", "2,1", ["gpu9", "gpu9", "gpu10"]),
    ],
)
def test_slurm(monkeypatch, nodes, tasks_per_node, expected):
    """Each process has its own place, which is on its machine."""
    set_slurm(
        monkeypatch,
        _STEP_NODELIST=nodes,
        _STEP_TASKS_PER_NODE=tasks_per_node,
        _STEP_NUM_TASKS=len(expected),
    )
    clusters, places = [], []
    for rank, host in enumerate(expected):
        local = expected[:rank].count(host)
        set_slurm(monkeypatch, _PROCID=rank, _LOCALID=local, D_NODENAME=host)
        monkeypatch.delenv("TF_CONFIG", raising=False)
        assert strategies.make("auto") == "several"
        resolver = Strategy().cluster_resolver
        clusters.append(resolver.cluster_spec().as_dict())
        places.append(resolver.task_id)
        address = clusters[0]["worker"][resolver.task_id]
        assert address == f"{host}:{strategies.PORT + local}"
    assert all(cluster == clusters[0] for cluster in clusters)
    assert sorted(places) == list(range(len(expected)))


def test_slurm_with_one_task_is_one_machine(monkeypatch):
    set_slurm(
        monkeypatch,
        _STEP_NODELIST="gpu1",
        _STEP_TASKS_PER_NODE=1,
        _STEP_NUM_TASKS=1,
    )
    assert strategies.make("auto") is tf.distribute.get_strategy()


def test_slurm_variables_that_are_missing(monkeypatch):
    set_slurm(monkeypatch, _STEP_NODELIST="gpu[1-2]", _STEP_NUM_TASKS=2)
    for name in ("SLURM_PROCID", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="SLURM_PROCID.*export TF_CONFIG"):
        strategies.make("auto")
