"""Search for motion vectors, partitions and prediction directions."""
