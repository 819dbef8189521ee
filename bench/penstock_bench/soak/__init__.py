"""Hours of a server's life in minutes: all kinds of traffic at once, every answer looked at, memory against requests.

    models    what is served, and what is known of its answers
    visits    what clients do: one function for each kind
    tally     what came of it
    memory    the slope: bytes for each request
    running   all of it together, for as long as is asked
    command   progress, the report, the exit status

Two things go on at the same time: visits, made by the reference client in this process, and a steady load of the
generator (`load`), which is cheaper for the client and so brings most of the requests.
"""
