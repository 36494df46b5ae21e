"""What we change about pod sandboxes, and the stopped containers that wait in them."""
