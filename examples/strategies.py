"""Where training runs: one device, all GPUs of a machine, several machines.

The strategies are TensorFlow's. Several machines find each other by the
environment variable TF_CONFIG, or by Slurm's variables where srun started the
program.
"""

import json
import os

import tensorflow as tf

NAMES = ("auto", "none", "mirrored", "multiworker")


def make(name, cpu_devices=0):
    """A `tf.distribute.Strategy`.

    Args:
        name: String. `"none"`: one device. `"mirrored"`: all GPUs of this
            machine, each with a part of the batch. `"multiworker"`: the same
            on several machines. `"auto"`: the last where TF_CONFIG or Slurm
            tells of several processes, the second where there is a GPU, else
            the first.
        cpu_devices: Int. Splits the CPU into so many devices, in place of
            GPUs: to rehearse. Defaults to `0`: does not.
    """
    if name == "auto":
        name = _best()
    if cpu_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        one = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [one] * cpu_devices)
    if name == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=None if _tf_config() else _slurm()
        )
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        if cpu_devices:
            devices = tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([d.name for d in devices] or None)
    return tf.distribute.get_strategy()


def _best():
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if len(_tf_config().get("worker", [])) > 1 or tasks > 1:
        return "multiworker"
    return "mirrored" if tf.config.list_physical_devices("GPU") else "none"


def _tf_config():
    """The addresses of TF_CONFIG, by the kind of process."""
    return json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})


def _slurm():
    """The processes of this Slurm step; Slurm gives each its GPUs.

    TensorFlow would divide the GPUs itself, and fails where there is none:
    it is told of more of them than there can be processes on a machine.
    """
    return tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=1024, gpus_per_task=1, auto_set_gpu=False
    )


def is_chief(strategy):
    """Whether this process is the one that writes and prints."""
    resolver = getattr(strategy, "cluster_resolver", None)
    return resolver is None or not resolver.task_id


def index(strategy):
    """The number of this process, from 0."""
    resolver = getattr(strategy, "cluster_resolver", None)
    return (resolver and resolver.task_id) or 0


def workers(strategy):
    """The number of processes."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None:
        return 1
    return max(1, len(resolver.cluster_spec().as_dict().get("worker", [])))


def describe(strategy):
    """A strategy in words."""
    replicas = strategy.num_replicas_in_sync
    text = f"{replicas} replica{'s' * (replicas > 1)}"
    if workers(strategy) > 1:
        text += f" on {workers(strategy)} machines"
    return text
