"""The review: people look at hard cases and mend labels by eye; what they decide goes back where training reads it."""
