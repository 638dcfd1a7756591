"""Data plane: pure functions over arrays, tables and paths. Knows nothing of Ray, DVC or MLflow."""
