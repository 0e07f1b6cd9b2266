"""Notebooks run headless: profiles read and checked, kernels started, progress told."""
