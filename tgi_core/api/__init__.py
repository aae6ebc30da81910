"""The HTTP API: requests in, tokens out, in the dialects of TGI and OpenAI."""
