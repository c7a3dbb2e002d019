"""The graph of nodes that settings describe, and the status of each node in a store."""
