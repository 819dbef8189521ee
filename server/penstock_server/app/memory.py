"""What a serving process does about memory once its models are loaded: it keeps what it will need again.

Both are measures for the whole process, so they belong to the server that owns it, and to no library.
"""

import ctypes
import gc
import logging
import os

_log = logging.getLogger(__name__)

_YOUNG_OBJECTS = 50_000
"""Objects more than there were, after which the collector looks at them: some 10 MB."""
_KEPT_BYTES = 128 << 20
"""Free memory at the end of the heap that is not given back: what large requests in flight take."""
_OWN_MAPPING_BYTES = 4 << 20
"""Blocks from this size on are mapped and unmapped each by itself. In the heap, what is half filled would in time be
filled all over: 200 half messages of 16 MiB took 1.6 GB, and most of it stayed."""
_CHOSEN = ("MALLOC_", "GLIBC_TUNABLES")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def spare_collections() -> None:
    """Let the garbage collector look at what is young, and seldom.

    Requests in flight are thousands of objects that all go by themselves: nothing of a request is in a cycle. With
    Python's own thresholds a burst of requests set the collector off again and again, and each time in ten it went over
    all that was loaded, for half of the CPU time at depth.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 100)


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, up to a bound, instead of giving it back to the kernel.

    Left alone, glibc gives the memory of a message of some 100 KB back when it is answered, and the kernel has to find
    and clear 4 KB after 4 KB of it for the next one: a third of the server's CPU time with inputs of 602 KB. Does
    nothing where there is no glibc, or where the environment says how malloc is to behave.
    """
    if any(name.startswith(_CHOSEN) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not POSIX, or musl
        return
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    if not (mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)):
        _log.debug("malloc does not take its thresholds")
