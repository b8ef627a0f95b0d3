"""Work that ends its process; it imports nothing, for every process that starts anew imports this."""

from __future__ import annotations

import os
import signal


def squared(number: int) -> int:
    if number % 7 == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number
