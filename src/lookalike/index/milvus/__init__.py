"""The index in Milvus, an engine for many machines: collections, their aliases, and moving a catalogue in and out."""
