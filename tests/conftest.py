"""What all tests share: how hypothesis looks for counterexamples.

Runs are reproducible: the same code is tried with the same examples. `--hypothesis-profile=explore` tries
many new ones instead, which is for a quiet evening and for code that has just changed.
"""

import os

from hypothesis import HealthCheck, Phase, settings

# What gRPC's C core has to say of the connections that tests break is no news. It is asked when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# No deadline for an example: what a busy machine does is no property of the code.
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
# For scripts/run_mutants.py: a mutant is dead at the first failure, however large the example.
settings.register_profile(
    "mutants", deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate], print_blob=False
)
settings.load_profile("reproducible")
