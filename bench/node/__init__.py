"""What a benchmark runs inside a node.

One process whose channels are open: no start of a command line tool counts for anybody. It needs
crishim's environment and knows nothing of the lab.
"""
