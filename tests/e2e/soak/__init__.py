"""Random dumps and restores with a random fault in each: `scripts/test soak [N] [SEED]`.

Run i has the seed SEED + i, so `scripts/test soak 1 SEED+i` is that run again. Each has a server
with a client on one connection, one operation, and one fault at a random step of it: a cancelled
call, a killed daemon, guardian or containerd, a deleted container or pod. However it goes, the
container runs in the end, or it is stopped and its archive is whole, and then it is restored; the
memory is what it was and the client has seen no reset; only who deletes a container itself loses
it. Nothing is left behind.
"""
