"""Settings to the graph of nodes, and where each node is in a store."""
