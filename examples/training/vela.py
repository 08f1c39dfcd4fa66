"""Estimates by Vela, Arm's compiler for Ethos-U NPUs (`ethos-u-vela`)."""

import csv
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile


def command():
    """The program, or `None`: it is not installed."""
    folder = os.path.dirname(sys.executable)
    return shutil.which("vela", path=folder) or shutil.which("vela")


def estimate(path, accelerator):
    """What Vela says of a file.

    Args:
        path: String.
        accelerator: String, as Vela has them: `"ethos-u55-128"`.

    Returns:
        Dict with KiB, milliseconds and operators, or `None` without Vela.

    Raises:
        RuntimeError: If Vela fails, with its last lines.
    """
    program = command()
    if program is None:
        print("ethos-u-vela is not installed: left out.")
        return None
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                program,
                path,
                f"--accelerator-config={accelerator}",
                f"--output-dir={folder}",
            ],
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"Vela failed on {path}: {said[-500:]}")
        (summary,) = glob.glob(os.path.join(folder, "*_summary_*.csv"))
        with open(summary, newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
    print(said)
    return {
        "accelerator": accelerator,
        "flash_kib": float(row["off_chip_flash_memory_used"]),
        "sram_kib": float(row["sram_memory_used"]),
        "milliseconds": 1000 * float(row["inference_time"]),
        "macs": int(float(row["nn_macs"])),
        "cpu_operators": _count("CPU", said),
        "npu_operators": _count("NPU", said),
        "on_the_cpu": re.findall(r"operator: (\w+), ofm: '([^']*)'", said),
    }


def _count(where, said):
    found = re.search(rf"{where} operators = (\d+)", said)
    return int(found[1])
