"""Who asks: addresses."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> Address | None:
    """The address in `text`, or None where there is none.

    The zone of a link-local address is left out, and an IPv4 address that an IPv6 socket shows as
    `::ffff:10.0.0.5` is that IPv4 address.
    """
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_loopback
