"""The search for vectors, partitions and directions."""
