"""Updates of an index: vectors that are added, replaced and deleted, durable at once and found by the next search."""
