"""Durable jobs: a store with leases and fencing, one supervisor process per attempt, a dispatcher."""
