"""Encoders and LLMs: packaged weights, hub ids and local folders, all in the transformers layout."""
