"""Where a server's CPU time goes: one load, and the time of a request by layer.

    load alone ─▶ CPU time of a request                          (nobody watches, so this is what it costs)
    load again, with py-spy ─▶ stacks ─▶ layers ─▶ shares of it  ─▶ table, JSON, flame graph

`stacks` reads what py-spy writes, `layers` says whose a stack is, `shares` weighs stacks by their threads' CPU time,
`flame` draws: all pure. `server` starts what is measured, `sampling` watches it, `results` is what is kept.
"""
