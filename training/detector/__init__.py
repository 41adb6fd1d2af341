"""The subject detector: its data, rendered views, losses, training loop, curves and pictures."""
