"""The engine: scheduler, sampler and cache over any backend, and the process that runs it."""
