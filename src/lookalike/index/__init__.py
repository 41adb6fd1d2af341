"""The index: versions on disk, how they are built, opened, searched and swapped."""
