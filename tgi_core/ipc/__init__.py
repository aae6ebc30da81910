"""How the API process and the engine process talk: typed msgpack frames on a Unix socket."""
