"""What a process holds from its start to its end is kept from the garbage collector."""

import gc


def freeze() -> None:
    """Collect once, and never again look at what is there now.

    With vLLM's modules a gateway has some 670,000 objects. The collector's full round walks them
    all while nothing else runs: 450 ms on this project's machine, once for every 170,000 objects
    that outlive the younger rounds, and a pause for all streams each time.
    """
    gc.collect()
    gc.freeze()
