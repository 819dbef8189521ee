"""What hostile peers do to a Penstock that is started for it, beside a client that does nothing wrong.

    attacks   what each one sends, and what it has to be told
    attacker  sends it, from a process of its own, and writes down what it is told
    neighbour the client that must not notice
    trial     one attack beside one neighbour, and what the server holds meanwhile
    command   all of them, as a table

It attacks only what it has started itself, on 127.0.0.1.
"""
