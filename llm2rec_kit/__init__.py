"""LLM2Rec as a kit: a small library behind a numbered series of notebooks.

Importing this package is instant: torch, transformers and umap are imported by the modules that use them.
"""

import os

# Threads wait for each other at every product. By spinning they do so fastest, but where others use the cores, too, they keep them
# from the very thread that they wait for; asleep they cost a quarter more time on a quiet machine (benchmarks/RESULTS.md, mixed.py).
# Read where torch's OpenMP is loaded, so it has to stand before. Whoever sets the variable has it as set.
if hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
