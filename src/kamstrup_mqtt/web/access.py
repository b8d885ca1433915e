"""Who may see the page: a password, kept as its scrypt hash, and not guessed quickly."""

import asyncio
import base64
import enum
import hashlib
import hmac
import ipaddress
import os
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor

from kamstrup_mqtt.web.peers import Address

_N, _R, _P = 1 << 14, 8, 1  # 16 MB and some 50 ms a try
_SALT = 16
_TRIES = 5  # wrong ones of one address within a while
_WHILE_S = 60.0
_ADDRESSES = 1000  # that are remembered
_MOST_WAITING = 20  # passwords that wait for their hash: some seconds on a small machine
_SITE = 64  # bits of an IPv6 address: whoever has one has all that share them


def hash_password(password: str) -> str:
    """The hash of a password, as it stands in the configuration."""
    salt = os.urandom(_SALT)
    return f"scrypt:{_N}:{_R}:{_P}:{salt.hex()}:{_scrypt(password, salt, _N, _R, _P).hex()}"


def is_hash(text: str) -> bool:
    """Whether `text` is such a hash."""
    try:
        _parts(text)
    except ValueError:
        return False
    return True


def is_password(password: str, hashed: str) -> bool:
    """Whether `password` is the one of the hash."""
    n, r, p, salt, expected = _parts(hashed)
    return hmac.compare_digest(_scrypt(password, salt, n, r, p), expected)


def _parts(hashed: str) -> tuple[int, int, int, bytes, bytes]:
    name, *numbers, salt, expected = hashed.split(":")
    if name != "scrypt":
        raise ValueError(hashed)
    n, r, p = map(int, numbers)
    if not (2 <= n <= 1 << 20 and n & (n - 1) == 0 and 1 <= r <= 32 and 1 <= p <= 16):
        raise ValueError(hashed)
    return n, r, p, bytes.fromhex(salt), bytes.fromhex(expected)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    memory = 256 * n * r
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=32)


class Verdict(enum.Enum):
    """What comes of a request's password."""

    ADMITTED = enum.auto()
    REFUSED = enum.auto()
    LOCKED = enum.auto()  # too many wrong ones came from that address
    BUSY = enum.auto()  # too many are being checked


class Guard:
    """Checks the Authorization of requests: Basic with any user name, or Bearer.

    A password counts as wrong before it is hashed, and one at a time is hashed: however many come
    at once, no more are tried, and no more memory is taken, than if they came one by one.

    Args:
        hashed: the hash of the password, or None where there is none.

    """

    def __init__(self, hashed: str | None) -> None:
        self.needed = hashed is not None
        self._hashed = hashed
        self._key = os.urandom(32)
        self._accepted: set[bytes] = set()  # so that not every request costs a hash
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._trials: dict[tuple[str, bytes], asyncio.Task[bool]] = {}
        self._turn = asyncio.Lock()
        # Every thread that ever hashed keeps the memory it took: always the same one.
        self._thread = ThreadPoolExecutor(1, "password")

    async def check(self, authorization: str | None, address: Address | None) -> Verdict:
        """Whether a request with this header, from that address, may pass."""
        if self._hashed is None:
            return Verdict.ADMITTED
        place = _place(address)
        password = _password(authorization or "")
        if password is None:
            return Verdict.LOCKED if self._locked(place) else Verdict.REFUSED
        mark = hmac.digest(self._key, password.encode(), "sha256")
        trial = self._trials.get((place, mark))
        if trial is not None and await asyncio.shield(trial):
            return Verdict.ADMITTED  # as a browser that asks for several things at once
        if self._locked(place):
            return Verdict.LOCKED
        if mark in self._accepted:
            return Verdict.ADMITTED
        if trial is None and len(self._trials) >= _MOST_WAITING:
            return Verdict.BUSY
        self._count(place)
        if trial is not None:  # the same was just found to be wrong
            return Verdict.REFUSED
        trial = asyncio.create_task(self._try(password, self._hashed, place, mark))
        self._trials[place, mark] = trial
        trial.add_done_callback(lambda _: self._trials.pop((place, mark)))
        return Verdict.ADMITTED if await asyncio.shield(trial) else Verdict.REFUSED

    async def _try(self, password: str, hashed: str, place: str, mark: bytes) -> bool:
        async with self._turn:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._thread, is_password, password, hashed)
        if right:
            self._accepted.add(mark)
            self._wrong.pop(place, None)
        return right

    def _locked(self, place: str) -> bool:
        wrong = self._wrong.get(place)
        while wrong and wrong[0] < time.monotonic() - _WHILE_S:
            wrong.popleft()
        return wrong is not None and len(wrong) >= _TRIES

    def _count(self, place: str) -> None:
        self._wrong.setdefault(place, deque(maxlen=_TRIES)).append(time.monotonic())
        self._wrong.move_to_end(place)
        while len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)


def _place(address: Address | None) -> str:
    """What counts as one guesser."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _SITE), strict=False))
    return str(address)


def _password(authorization: str) -> str | None:
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except ValueError:  # no base64, or no text
        return None
    return password
