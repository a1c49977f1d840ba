"""Thin compositions of the rooms: the command line and the jobs it starts."""

import os

# Idle OpenMP threads of PyTorch otherwise spin while they wait. On a machine that others use as well, a training step
# then takes 5 s instead of 0.2 s: the spinning threads hold the cores that the late one needs. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
