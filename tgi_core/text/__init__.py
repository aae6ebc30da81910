"""Text and tokens: tokenizers, chat templates, stop strings, and the checks of a request."""
