"""The peers there are, in the order of tables."""

from collections.abc import Sequence

from penstock_bench.peers.base import Peer, PeerFailed
from penstock_bench.peers.bentoml import BentoML
from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.kserve import KServe
from penstock_bench.peers.litserve import LitServe
from penstock_bench.peers.mlserver import MLServer
from penstock_bench.peers.mosec import Mosec
from penstock_bench.peers.penstock import PREFIX, Penstock, transports
from penstock_bench.peers.ray_serve import RayServe
from penstock_bench.peers.triton import Triton
from penstock_bench.peers.workshop import Workshop

OTHERS: tuple[type[InstalledPeer], ...] = (Triton, Mosec, KServe, MLServer, LitServe, BentoML, RayServe)
NAMES = tuple(kind.name for kind in OTHERS)


def chosen(workshop: Workshop, only: Sequence[str], everything: bool) -> list[Peer]:
    """The peers by their names in this order, or the usual ones. Raises ValueError with a sentence."""
    if not only:
        return [*_ours(), *(kind(workshop) for kind in OTHERS if everything or kind.default)]
    kinds = {kind.name: kind for kind in OTHERS}
    found: list[Peer] = []
    for name in dict.fromkeys(only):
        if name in kinds:
            found.append(kinds[name](workshop))
        elif name == "penstock":
            found += _ours()
        elif name.startswith(PREFIX) and len(name) > len(PREFIX):
            found.append(Penstock(name.removeprefix(PREFIX)))
        else:
            raise ValueError(f"there is no peer '{name}': there are penstock, {PREFIX}TRANSPORT, {', '.join(NAMES)}")
    return found


def _ours() -> list[Peer]:
    """Penstock with each of its transports; one that says why, if it cannot be asked."""
    try:
        return [Penstock(transport) for transport in transports()]
    except PeerFailed:
        return [Penstock("grpcio")]
