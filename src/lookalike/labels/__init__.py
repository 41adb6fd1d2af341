"""Label tasks: a user's own labels for whole images, trained on the embedder's features and served as endpoints."""
