"""The gRPC side: generated messages, the sample codec, client and server shells."""
