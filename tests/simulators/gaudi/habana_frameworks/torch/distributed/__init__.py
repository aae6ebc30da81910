"""Of which a server imports `hccl`."""
