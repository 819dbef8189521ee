"""Many streams, each with a state in the server: `penstock bench streams`.

`listener` is the model and what is right about it, `servers` are those who serve it, `run` is the order of things and
`show` the tables.
"""
