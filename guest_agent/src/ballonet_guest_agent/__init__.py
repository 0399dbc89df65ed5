"""The guest's half of ballonet: reports memory, asks at once when it is short, guards against a shrink that hurts."""

__version__ = "0.1.0"
