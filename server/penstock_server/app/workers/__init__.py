"""Several processes on one port, and the one that looks after them.

    penstock serve --workers 2
      └─ exec ─▶ supervisor ──spawns──▶ worker 1 ─┐
                   │   │    ──spawns──▶ worker 2 ─┼─ gRPC, one port (SO_REUSEPORT)
                   │   └── holds the port, bound ─┘
                   └── metrics and health over HTTP, of all of them

The supervisor serves no request and imports no gRPC, no numpy and no model: it stays small, and what ends a worker
does not end it. Workers are whole servers but for the metrics port. Between the two there is a socket (`link`), over
which a worker says how it is; that it closes tells either side that the other one is gone.
"""
