"""The gRPC server, its snapshot, settings, metrics and the `freshet` program."""
