"""The gateway in front of TorchServe: keys, limits, the page, thumbnails, item endpoints (`lookalike web`)."""
