"""A pod's connections and its address: held, moved, and put back."""
