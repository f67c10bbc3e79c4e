"""The collection of garbage in the processes of a run.

They start without one (`run`), which would look again and again at what imports make: that is 3 ms
of the time until the first container.
"""

import gc


def collect_from_now_on() -> None:
    """Begin to collect garbage, of what is made after this."""
    gc.freeze()
    gc.enable()
