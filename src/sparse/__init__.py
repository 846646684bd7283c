"""Sparse decision layers: elastic-net paths of linear models on deep features (Wong, Santurkar, Madry; ICML 2021)."""
