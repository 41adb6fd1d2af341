"""The embedder: its pictures, samplers, losses, training loop, reports and re-ranking."""
