"""Numbers about two segmentations: arrays in, numbers out."""
