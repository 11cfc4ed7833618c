"""A JSON-RPC server that existing tools of the original can talk to."""
