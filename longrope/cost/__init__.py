"""The computation, memory and time of a node, and the resources its job asks for."""
