"""Measures a V2 server: load, reports, comparison with peers. What is here comes with a later part."""
