"""Policies that the engine can run, each in a module of its own; this one exports nothing."""
