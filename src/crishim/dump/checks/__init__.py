"""What a dump refuses before anything is touched, or before its source is ended."""
