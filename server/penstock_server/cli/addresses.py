"""What the commands need to know of addresses."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bracketed(host: str) -> str:
    """The host as it stands before a port: an IPv6 address needs brackets."""
    return f"[{host}]" if ":" in host else host


def channel_options(target: str) -> dict[str, int | str]:
    """gRPC channel options for `host:port`. No proxy has a way to this machine, whatever the environment says."""
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    return {"grpc.enable_http_proxy": 0} if is_loopback(host) else {}
