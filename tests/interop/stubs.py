"""Write the Python stubs of interop.proto, below the folder that is named: `python -m tests.interop.stubs .`"""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    scripts = Path(sys.executable).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    command += [f"--plugin={scripts / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command += [f"--{kind}_out={folder}" for kind in ("python", "grpc_python")]
    command += [f"--{kind}_out=quiet:{folder}" for kind in ("mypy", "mypy_grpc")]
    subprocess.run([*command, "tests/interop/interop.proto"], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    main()
