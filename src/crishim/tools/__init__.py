"""One module per external program or library: options in, argv or call, result out."""
