"""The factor search: space, objective and driver."""
