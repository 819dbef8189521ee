"""What the process does about memory."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from penstock_server.app.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    blocks = [bytearray(1_000_000) for _ in range(8)]

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    use()
before = faults()
for _ in range(20):
    use()
print(faults() - before)
"""


def faults(argument: str, **more: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True, env=environment | more
    )
    return int(found.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_that_was_freed_is_used_again() -> None:
    """The kernel is asked for none of it: 160 blocks of 244 pages would be 39,000 faults of pages."""
    assert faults("keep") < 500 < 5000 < faults("leave")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_environment_has_the_last_word() -> None:
    """Whoever has told malloc what to do is not overruled."""
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="0") > 5000
