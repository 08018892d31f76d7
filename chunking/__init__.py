"""The sky on disk: grid and tiles, the store, FITS in and out, accessor, plots."""
