"""Alignment of speech frames with the embedding space of a frozen LLM."""
