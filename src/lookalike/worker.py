"""Starts a TorchServe worker without loading torch: `python -m lookalike.worker <model_service_worker.py> <arguments>`.

TorchServe's wire codec imports torch for one `isinstance` check, on replies that are neither bytes nor text. Ours are
bytes. An idle worker holds 28 MB instead of 550 MB this way, and starts in 0.4 s instead of 3 s. The codec gets a
stand-in that imports torch when it is first used; everybody else's `import torch` is the real one.
"""

import importlib
import runpy
import sys
from types import ModuleType

CODEC = "ts.protocol.otf_message_handler"


class LateTorch(ModuleType):
    """Stands for torch until one of its attributes is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import machinery asks for these; they say nothing about torch
            raise AttributeError(name)
        return getattr(importlib.import_module("torch"), name)


def import_codec() -> ModuleType:
    """Import TorchServe's codec with the stand-in as its torch, and leave `sys.modules` as it was."""
    if "torch" in sys.modules:
        return importlib.import_module(CODEC)
    sys.modules["torch"] = LateTorch("torch")
    try:
        return importlib.import_module(CODEC)
    finally:
        del sys.modules["torch"]


def main() -> None:
    """Run TorchServe's own worker script, unchanged, as `__main__`."""
    import_codec()
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
