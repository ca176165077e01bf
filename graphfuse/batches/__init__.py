"""Many models: found, each fused in a process of its own, and told of in a ledger."""
