"""Optuna inside Ray Tune: spaces, and one study per label ratio and method that is the truth for
the whole search.
"""
