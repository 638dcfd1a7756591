"""One module per DVC stage: reads settings, places the work on Ray, records it in MLflow."""
