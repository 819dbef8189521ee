"""`penstock version`."""

from penstock_server import __version__


def version() -> None:
    """Print the version.

    For example: `penstock version`, for a report of a problem.
    """
    print(__version__)
