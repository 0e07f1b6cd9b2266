"""Recommenders over frozen item vectors: samples, SASRec and GRU4Rec, losses, full ranking, baselines."""
