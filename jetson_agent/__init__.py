"""Device plane: how a Jetson joins, serves and keeps learning."""
