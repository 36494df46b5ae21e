"""The CRI methods that crishim changes."""
