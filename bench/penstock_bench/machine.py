"""What a measurement was made on, for its report."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from penstock_bench.results import Machine

PACKAGES = ("penstock", "grpcio", "protobuf", "numpy", "uvloop", "onnxruntime")


def this_machine(packages: Iterable[str] = PACKAGES) -> Machine:
    """The machine, and the versions of these packages as far as they are installed, with the commit of a checkout."""
    versions = {name: found for name in packages if (found := _version(name))}
    if commit := _commit():
        versions["commit"] = commit
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of the repository that this file is part of, with a + if it was changed; empty if it is installed."""
    here = Path(__file__).resolve().parent
    if here.parent.name != "bench" or not (here.parent.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
