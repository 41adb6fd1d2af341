"""What the e2e tests stand on besides the fixtures."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
# Set in the server's environment; its name matches blacklist_env_vars.
HIDDEN_SECRET = "LOOKALIKE_E2E_API_TOKEN"
