"""LLM2Rec as a kit: a small library behind a numbered series of notebooks.

Importing this package is instant: torch, transformers and umap are imported by the modules that use them.
"""

__version__ = "0.1.0"
