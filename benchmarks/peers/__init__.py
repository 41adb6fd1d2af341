"""The same models behind other serving stacks, measured in turns with Lookalike (docs/peers.md)."""
