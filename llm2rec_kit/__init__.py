"""LLM2Rec as a kit: a small library behind a numbered series of notebooks.

Importing this package is instant: torch, transformers and umap are imported by the modules that use them.
"""

import os

# Read where torch's OpenMP is loaded, so it has to stand before. Threads that wait for each other by spinning keep a busy machine's
# cores from the very thread that they wait for. Whoever sets it has it as set.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
