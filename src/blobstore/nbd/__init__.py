"""The NBD protocol, a server of volumes, and a client that is a device."""
