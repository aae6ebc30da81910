"""TensorRT-LLM behind the engine contract: it schedules, batches and samples by itself."""
