"""What every floor may use to wait: work that is not broken off, threads with a purpose, undo."""
