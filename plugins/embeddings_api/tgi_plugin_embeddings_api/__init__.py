"""OpenAI's and TEI's embeddings as dialects."""
