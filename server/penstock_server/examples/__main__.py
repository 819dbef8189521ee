"""Writes the example models into a folder, which can be served then.

python -m penstock_server.examples models
penstock serve models
"""

import sys
from pathlib import Path

from penstock_server.examples import write_all


def main(arguments: list[str]) -> int:
    """Write them. 2 if the folder is not named, or has something in it."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m penstock_server.examples FOLDER\n\nWrites the example models there.", file=sys.stderr)
        return 0 if arguments in (["--help"], ["-h"]) else 2
    folder = Path(arguments[0])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        print(f"{folder} is not an empty folder", file=sys.stderr)
        return 2
    write_all(folder)
    print(f"{', '.join(sorted(model.name for model in folder.iterdir()))}: now `penstock serve {folder}`")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
