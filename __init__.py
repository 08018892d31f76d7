"""skymill: train once, predict everywhere on the sky."""

__version__ = "0.1.0"
