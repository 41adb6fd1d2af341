"""A large catalogue embedded on Ray: parts of a pinned list become Parquet files, which an index is built of."""
