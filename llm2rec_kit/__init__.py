"""LLM2Rec as a kit: a small library behind a numbered series of notebooks.

Importing this package is instant: torch, transformers and umap are imported by the modules that use them.
"""

import os

# Threads wait for each other at every product. By spinning they do so fastest, but where others use the cores, too, they keep them
# from the very thread that they wait for: with one other program beside two threads on two cores, libgomp's own spin (300,000
# turns) makes small products many times slower. A hundredth of it costs nothing that can be measured on a quiet machine; asleep at
# once they cost a quarter more there, and the least where many others wait for the cores (benchmarks/RESULTS.md, mixed.py).
# Read where torch's OpenMP is loaded, so it has to stand before. Whoever sets one of the two variables has it as set; what a process
# chose itself, those that it starts choose anew, as the machine may be busy by then.
os.environ.pop(os.environ.pop("LLM2REC_CHOSE", ""), None)
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    _busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
    _name, _value = ("OMP_WAIT_POLICY", "PASSIVE") if _busy else ("GOMP_SPINCOUNT", "3000")
    os.environ |= {"LLM2REC_CHOSE": _name, _name: _value}

__version__ = "0.1.0"
