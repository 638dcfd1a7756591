"""MLflow: records, lineage and the spool."""
