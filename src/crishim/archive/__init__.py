"""The format of a checkpoint: one tar written and read, its manifest, what CRIU wrote into it."""
