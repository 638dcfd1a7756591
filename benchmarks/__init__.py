"""Benchmarks: real runs that write docs/benchmarks/<area>.json."""
