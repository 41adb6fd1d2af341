"""How much the fuzzing tests do: a little in `make test`, all of it in `make fuzz`."""

import os

IN_FULL = os.environ.get("LOOKALIKE_FUZZ") == "full"
