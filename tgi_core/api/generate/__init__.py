"""TGI's own dialect: /generate, /generate_stream and the root route."""
