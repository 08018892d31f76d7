"""skymill: train once, predict everywhere on the sky."""
