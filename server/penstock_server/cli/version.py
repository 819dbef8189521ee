"""`penstock version`."""

from penstock_server import __version__


def version() -> None:
    """Print the version."""
    print(__version__)
