"""Ray: sessions, nodes, placement and work over shards."""
