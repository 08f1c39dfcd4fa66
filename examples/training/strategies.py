"""Where training runs: one device, all GPUs of a machine, several machines.

The strategies are TensorFlow's. Several machines find each other by the
environment variable TF_CONFIG, or by Slurm's variables where srun started the
program.
"""

import json
import os

import numpy as np
import tensorflow as tf

NAMES = ("auto", "none", "mirrored", "multiworker")
# Of the first process on a machine, under Slurm.
PORT = 8888
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def make(name, cpu_devices=0):
    """A `tf.distribute.Strategy`.

    Args:
        name: String. `"none"`: one device. `"mirrored"`: all GPUs of this
            machine, each with a part of the batch. `"multiworker"`: the same
            on several machines. `"auto"`: the last where TF_CONFIG or Slurm
            tells of several processes, the second where there is a GPU or
            `cpu_devices`, else the first.
        cpu_devices: Int. Splits the CPU into so many devices, in place of
            GPUs: to rehearse. Defaults to `0`: does not.

    Raises:
        ValueError: If the machines cannot find each other, or the CPU is to
            be split for another strategy than `"mirrored"`.
    """
    if name == "auto":
        name = _best(cpu_devices)
    if cpu_devices and name != "mirrored":
        raise ValueError(
            "--cpu_devices splits the CPU for --strategy=mirrored, not for "
            f"--strategy={name}. Leave one of the two out."
        )
    if name == "multiworker":
        if not _find_cluster():
            raise ValueError(
                "--strategy=multiworker needs TF_CONFIG, or a start by srun, "
                f"to know the machines: export TF_CONFIG='{_EXAMPLE}'"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_local_devices(cpu_devices))
    return tf.distribute.get_strategy()


def _best(cpu_devices):
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if several or _count(_tf_config()) > 1:
        return "multiworker"
    is_split = cpu_devices or tf.config.list_physical_devices("GPU")
    return "mirrored" if is_split else "none"


def _local_devices(cpu_devices):
    if not cpu_devices:
        gpus = tf.config.list_logical_devices("GPU")
        return [device.name for device in gpus] or ["CPU:0"]
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * cpu_devices)
    return [device.name for device in tf.config.list_logical_devices("CPU")]


def _find_cluster():
    """The addresses of all processes, by their kind.

    TensorFlow looks for them in TF_CONFIG: under Slurm it is set here.
    """
    if not os.environ.get("TF_CONFIG") and "SLURM_STEP_NODELIST" in os.environ:
        os.environ["TF_CONFIG"] = json.dumps(slurm_config())
    return _tf_config()


def slurm_config():
    """What TF_CONFIG would be, from Slurm's variables.

    TensorFlow's resolver is not used as a strategy's: it wants to know the
    number of GPUs beforehand, and its order, host10 before host9, is not that
    of SLURM_PROCID. Here each process finds itself by the name of its machine.
    """
    try:
        # It is told of more GPUs than there can be processes on a machine.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=PORT,
            gpus_per_node=1024,
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        cluster = resolver.cluster_spec().as_dict()
        port = PORT + int(os.environ["SLURM_LOCALID"])
        own = f"{os.environ['SLURMD_NODENAME']}:{port}"
        task = {"type": "worker", "index": cluster["worker"].index(own)}
    except (LookupError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Slurm's variables do not tell the machines ({error}): export "
            f"TF_CONFIG on each, as in TF_CONFIG='{_EXAMPLE}'"
        ) from error
    return {"cluster": cluster, "task": task}


def _tf_config():
    """The cluster of TF_CONFIG, in which this process has its place."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        if not cluster:
            return {}
        kind, index = config["task"]["type"], int(config["task"]["index"])
        if {*cluster} <= {"chief", "worker"} and 0 <= index < len(
            cluster[kind]
        ):
            return cluster
    except (ValueError, TypeError, LookupError, AttributeError):
        pass
    raise ValueError(
        "TF_CONFIG must name the workers (and a chief, or none), and which of "
        f"them this process is, as in {_EXAMPLE}. Received: {text}"
    )


def _count(cluster):
    return sum(map(len, cluster.values()))


def _cluster(strategy):
    """The addresses of all processes, by their kind."""
    resolver = getattr(strategy, "cluster_resolver", None)
    return resolver.cluster_spec().as_dict() if resolver else {}


def is_chief(strategy):
    """Whether this process is the one that writes and prints."""
    return index(strategy) == 0


def index(strategy):
    """The number of this process, from 0; a chief comes before the workers."""
    cluster = _cluster(strategy)
    if not cluster:
        return 0
    resolver = strategy.cluster_resolver
    is_after_chief = resolver.task_type == "worker" and "chief" in cluster
    return resolver.task_id + is_after_chief


def workers(strategy):
    """The number of processes."""
    return max(1, _count(_cluster(strategy)))


def describe(strategy):
    """A strategy in words."""
    replicas = strategy.num_replicas_in_sync
    text = f"{replicas} replica{'s' * (replicas > 1)}"
    if workers(strategy) > 1:
        text += f" on {workers(strategy)} machines"
    return text


def total(strategy, numbers):
    """The sum of numbers over all processes, each with its own.

    It returns when every process has called it.

    Args:
        strategy: `tf.distribute.Strategy`.
        numbers: Array; the same shape in each process.

    Returns:
        Array of float64.
    """
    numbers = np.asarray(numbers, "float64")
    if workers(strategy) == 1:
        return numbers
    local = strategy.num_replicas_in_sync // workers(strategy)

    def own(context):
        is_first = context.replica_id_in_sync_group % local == 0
        return tf.constant(numbers if is_first else np.zeros_like(numbers))

    each = strategy.experimental_distribute_values_from_function(own)
    return strategy.reduce("SUM", each, axis=None).numpy()


def of_chief(strategy, numbers):
    """The chief's numbers, in every process; see `total`."""
    numbers = np.asarray(numbers, "float64")
    if not is_chief(strategy):
        numbers = np.zeros_like(numbers)
    return total(strategy, numbers)


def are_same(strategy, numbers):
    """Whether every process gives the same numbers; see `total`."""
    differ = np.any(of_chief(strategy, numbers) != np.asarray(numbers))
    return bool(total(strategy, differ) == 0)
