"""`repeat`: decoupled, which this version serves no way to answer yet. It is there to be refused."""

from penstock_server.backends.python import PythonModel


class Repeat(PythonModel):
    pass  # its `infer` comes with the part that serves decoupled models
