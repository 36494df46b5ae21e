"""What nobody has asked for: recovery after a crash, removal, what is still needed."""
