"""What is done with what is left: recovery after a crash, removal, what is still needed."""
