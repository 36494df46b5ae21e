"""What nodes are made of, built once and kept in the cache: roots, programs, images."""
