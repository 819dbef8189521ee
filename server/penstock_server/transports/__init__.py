"""How bytes get in and out. Each transport serves the same methods behind the same seam."""
