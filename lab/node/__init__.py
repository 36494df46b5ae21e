"""One node: its files, its start, commands in it, what is installed on it."""
