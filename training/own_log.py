"""The log of a training command: its own lines of progress, and of the libraries only what is wrong."""

import logging


def show_own_log(line: str = "%(asctime)s %(message)s") -> None:
    """Log what this project says from INFO on, and the exporter and its like from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format=line)
    for name in ("training", "lookalike", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
