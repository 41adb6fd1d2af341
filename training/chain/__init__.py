"""The evaluation of the whole chain: its query sets, searches, figures and report."""
