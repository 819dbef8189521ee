"""`broken`: cannot be loaded."""

from penstock_server.backends.python import ModelContext, PythonModel


class Broken(PythonModel):
    def load(self, context: ModelContext) -> None:
        raise RuntimeError("broken on purpose")
