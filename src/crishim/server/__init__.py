"""The gRPC server: the relay, the CRI methods that we change, our own service, the error table."""
