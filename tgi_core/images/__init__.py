"""Images in requests, in the API process: found, fetched, looked at, and given their place in the
prompt. Decodes none of them, and knows no HTTP dialect.
"""
