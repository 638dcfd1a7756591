"""Cohorts: recordings in, WebDataset shards out."""
