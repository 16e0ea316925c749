"""Runs spann and its peers side by side on the same vectors, queries and truth; see `__main__`."""
