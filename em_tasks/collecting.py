"""Python's search for garbage, in processes that are ours and load models."""

import atexit
import gc

RARELY = (20_000, 20, 20)


def collect_rarely() -> None:
    """Has this process look for garbage less often than Python would, and not once more as it ends.

    Torch, transformers and Inspect make a million objects that stay to the end. Looking through them, again and again
    while they come and once more at the end, took a third of the processor time of a process that loads a model.
    """
    gc.set_threshold(*RARELY)
    # Once, however often this is called: what is frozen is not looked through.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
