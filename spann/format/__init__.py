"""The meaning of every byte and attribute of an index, and its checks (docs/FORMAT.md). No module here opens a file."""
