"""Triton: the server inside the wheel of nvidia-pytriton, with the one backend that is there, Python.

The wheel is unpacked, not installed: what it asks for is of no use here. Its traps, each of which costs an hour:
numpy 2 in the models' Python corrupts tensors silently; the backend's interpreter takes its packages from the `python3`
that it finds first on PATH, whatever PYTHONPATH says; its stub is built for one version of Python, and must find that
version's shared library. Its shared memory outlives a server that is killed, so it gets a name and is removed.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock_bench.peers.base import PeerFailed, ProtocolName
from penstock_bench.peers.installed import PROGRAMS, InstalledPeer
from penstock_bench.peers.models import BenchModel, ModelSet
from penstock_bench.peers.process import HOST, free_port

_WHEEL = "nvidia-pytriton==0.7.0"
_WHEEL_MEGABYTES = 250
_SHARED = Path("/dev/shm")
ONE_INSTANCE = "instance_group [ { kind: KIND_CPU count: 1 } ]"
"""Of a model's configuration."""


class Triton(InstalledPeer):
    """One instance of each model, a process each; the dynamic batcher is Triton's, with its defaults."""

    name = "triton"
    title = "Triton 2.51.0 (Python backend)"
    protocol: ProtocolName = "gRPC"
    remark = "includes the Python process that runs the model, also in the CPU: the wheel from PyPI has no ONNX backend"
    default = True
    requirements = ("numpy==1.26.4",)
    several = True
    megabytes = 300
    program = "triton_model.py"
    """What the Python backend runs."""

    def prepare(self) -> None:
        super().prepare()
        self._server()

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        server = self._server()
        for model in models.models:
            folder = scratch / "repository" / model.name
            version = folder / "1"
            version.mkdir(parents=True)
            (folder / "config.pbtxt").write_text(self._config(model))
            shutil.copy(PROGRAMS / self.program, version / "model.py")
            shutil.copy(PROGRAMS / "served.py", version)
            shutil.copy(model.path, version / "model.onnx")
        return [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={scratch / 'repository'}",
            f"--backend-directory={server / 'backends'}",
            f"--grpc-address={HOST}",
            f"--grpc-port={port}",
            "--allow-http=false",
            f"--metrics-address={HOST}",
            f"--metrics-port={free_port()}",
            "--allow-metrics=false",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
            "--backend-config=python,shm-default-byte-size=16777216",
            f"--backend-config=python,shm-region-prefix-name={_prefix(scratch)}",
        ]

    def _config(self, model: BenchModel) -> str:
        return model.config("python", ONE_INSTANCE)

    def variables(self, scratch: Path, port: int) -> Mapping[str, str]:
        return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}

    def stop(self) -> None:
        scratch = None if self._process is None else self._process.scratch
        try:
            super().stop()
        finally:
            if scratch is not None and _SHARED.is_dir():
                for left in _SHARED.glob(f"{_prefix(scratch)}*"):
                    left.unlink(missing_ok=True)

    def remove(self) -> None:
        super().remove()
        self.workshop.remove("triton-wheel")

    def _server(self) -> Path:
        """The folder of the server, with the stub for this Python in its place. Raises PeerFailed."""
        library = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
        if ".so" not in library.name or not library.exists():
            raise PeerFailed("its Python backend needs a Python with a shared library, and this one has none")
        server = self.workshop.wheel("triton-wheel", _WHEEL, _WHEEL_MEGABYTES) / "pytriton" / "tritonserver"
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
        if not stub.exists():
            raise PeerFailed(f"its wheel has no Python backend for Python {python}")
        place = server / "backends" / "python" / stub.name
        shutil.copy(stub, place)
        for program in (place, server / "bin" / "tritonserver"):
            os.chmod(program, 0o755)
        return server


def _prefix(scratch: Path) -> str:
    """Of its shared memory's names."""
    return f"penstock-bench-{scratch.name}-"
