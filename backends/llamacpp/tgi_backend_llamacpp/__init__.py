"""GGUF models through llama.cpp's low-level API, as a backend and a tokenizer for tgi-core."""
