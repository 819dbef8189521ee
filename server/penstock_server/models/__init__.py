"""A model repository on disk: what it holds, what its configurations mean, what is wrong with them.

    folder ── repository ──▶ ModelSource ── completion (+ the model's own signature) ──▶ config ── spec ──▶ ModelSpec

Everything here is pure: files are read, nothing is run, no backend is known.
"""
