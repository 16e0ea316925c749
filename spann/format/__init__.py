"""What every byte and attribute of an index means, and the checks of it (docs/FORMAT.md). No module opens a file."""
