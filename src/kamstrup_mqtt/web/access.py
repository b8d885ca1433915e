"""Who may see the page: a password, kept as its scrypt hash, and not guessed quickly."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import time
from collections import OrderedDict, deque

_N, _R, _P = 1 << 14, 8, 1  # 16 MB and some 50 ms a try
_SALT = 16
_TRIES = 5  # wrong ones of one address within a while
_WHILE_S = 60.0
_ADDRESSES = 1000  # that are remembered


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


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


class Guard:
    """Checks the Authorization of requests: Basic with any user name, or Bearer.

    Args:
        hashed: the hash of the password, or None where everybody may.

    """

    def __init__(self, hashed: str | None) -> None:
        self.needed = hashed is not None
        self._hashed = hashed
        self._key = os.urandom(32)
        self._accepted: set[bytes] = set()  # so that not every request costs a hash
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def must_wait(self, address: str) -> bool:
        """Whether this address gave too many wrong passwords lately."""
        wrong = self._wrong.get(address)
        while wrong and wrong[0] < time.monotonic() - _WHILE_S:
            wrong.popleft()
        return wrong is not None and len(wrong) >= _TRIES

    def admits(self, authorization: str | None, address: str) -> bool:
        """Whether a request with this header may pass; a hash takes time, so ask in a thread."""
        if self._hashed is None:
            return True
        password = _password(authorization or "")
        if password is None:
            return False
        mark = hmac.digest(self._key, password.encode(), "sha256")
        if mark in self._accepted:
            return True
        if is_password(password, self._hashed):
            self._accepted.add(mark)
            self._wrong.pop(address, None)
            return True
        self._wrong.setdefault(address, deque(maxlen=_TRIES)).append(time.monotonic())
        self._wrong.move_to_end(address)
        while len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return False


def _password(authorization: str) -> str | None:
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password
