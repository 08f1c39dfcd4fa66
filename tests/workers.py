"""Starts processes that find one another by TF_CONFIG on this machine."""

import json
import os
import socket
import subprocess
import sys


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(command, count=2, **options):
    """Starts `python command...` as each of several workers.

    Args:
        command: List of strings; "{index}" in them is the worker's number.
        count: Int. Defaults to `2`.
        **options: Of `subprocess.Popen`.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    return [
        subprocess.Popen(
            [sys.executable, *(part.format(index=i) for part in command)],
            env={**environment(), "TF_CONFIG": tf_config(addresses, i)},
            text=True,
            **options,
        )
        for i in range(count)
    ]


def tf_config(addresses, index):
    return json.dumps(
        {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
    )


def environment():
    """That of this process, with what tests may import."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
