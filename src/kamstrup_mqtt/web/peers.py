"""Who asks: addresses, networks of them, and whom a trusted proxy asks for."""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> Address | None:
    """The address in `text`, or None where there is none.

    The zone of a link-local address is left out, and an IPv4 address that an IPv6 socket shows as
    `::ffff:10.0.0.5` is that IPv4 address.
    """
    try:
        found = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def parse_network(text: str) -> Network:
    """The network in `text`; an address is a network of one.

    Raises:
        ValueError: `text` is neither; the message says what was expected.

    """
    address, slash, _ = text.partition("/")
    known = parse_address(address)
    if known is None:
        raise ValueError(
            f"'{text[:60]}' is no address such as 192.168.1.5, and no network such as "
            "192.168.1.0/24"
        )
    if not slash:
        return ipaddress.ip_network(known)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text[:60]}' has no valid length behind the slash") from None
    if network.network_address != ipaddress.ip_address(address):
        raise ValueError(
            f"'{text[:60]}' is an address with the length of a network; expected {network} for "
            f"all of that network, or {known}"
        )
    return network


class Networks:
    """Some networks, to ask whether an address is in one of them.

    Args:
        texts: addresses and networks, as in the configuration.

    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks = tuple(parse_network(text) for text in texts)

    def __contains__(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def client_of(peer: Address | None, forwarded: Iterable[str], proxies: Networks) -> Address | None:
    """Whoever asks: the peer itself, or the one for whom a trusted proxy asks.

    A proxy adds the address of its own peer at the end, in the same line or in one of its own;
    everything before is what it was told, so it counts only where the proxy's peer is trusted too.

    Args:
        peer: at the other end of the connection.
        forwarded: the lines of X-Forwarded-For.
        proxies: the peers whose word is taken.

    """
    entries = ",".join(forwarded).split(",")
    client = peer
    while client in proxies and entries:
        named = _named(entries.pop())
        if named is None:  # such as `unknown`: all that is known is the proxy
            break
        client = named
    return client


def _named(entry: str) -> Address | None:
    """The address in an entry of X-Forwarded-For; some proxies add a port, or brackets."""
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return parse_address(text)


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_loopback
