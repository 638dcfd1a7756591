"""The device's local service: audio in, what was heard and the LLM's reply out, corrections in, learning meanwhile."""
