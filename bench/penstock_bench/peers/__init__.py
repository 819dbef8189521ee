"""Other servers beside Penstock: the same models, the same machine, the same load, one server at a time.

    command ─▶ runner ─▶ peer.prepare(), start(model) ─▶ check ─▶ load ─▶ stop      (one *turn*)
                  │                                                        │
                  └── results/NAME.json after every turn ◀─────────────────┘ ─▶ the merged report

A turn starts one server with one model, asks it what is known, drives every load at it, and stops it; nothing else runs
meanwhile, because two cores have no room for idle neighbours. The turns of a model go through the peers forwards and
then backwards (A-B-B-A), so that a machine that becomes slower meanwhile does so to all of them. Ratios are taken
between turns of the same round, and their spread is what a reader should believe them by.

`programs/` are the servers' own programs. They run in environments of their own and are never imported here.
"""
