"""The protocols that Penstock speaks: `.proto` files, the Python stubs made from them, and what both ends share.

The stubs are written by `scripts/gen_proto.py` and live in `pool.POOL`, so that tritonclient can be imported beside
them. `datatypes` is the table of tensor datatypes, `byte_tensors` the encoding of tensors of strings.
"""
