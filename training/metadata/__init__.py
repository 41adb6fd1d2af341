"""The metadata heads: their data, features, fitting, gate and tables."""
