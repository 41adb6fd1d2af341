"""Training, comparing and analysing label tasks."""
