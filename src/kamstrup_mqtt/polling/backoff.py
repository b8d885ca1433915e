"""How long to wait before something that failed is tried again."""

import math

_FIRST_RETRY_S = 5.0
_DOUBLINGS = 20  # 60 days: beyond any interval, and far from where floats end


def retry_delay(failures: int, longest_s: float) -> float:
    """Seconds until a failed try is repeated: 5, 10, 20 and so on, up to `longest_s`."""
    return min(math.ldexp(_FIRST_RETRY_S, min(failures - 1, _DOUBLINGS)), longest_s)
