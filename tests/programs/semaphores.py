"""Semaphores that several processes share: `ok N` in its log as long as they hold, else `WRONG`.

One has a name in /dev/shm (sem_open), one had it, and one is a lock of multiprocessing's, between
processes that were spawned. glibc makes each of them under another name, which it removes.
"""

import ctypes
import multiprocessing
import os
import time

NAMED, UNNAMED = b"/named", b"/unnamed"
libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p


def opened(name, flags=0):
    """Return the semaphore of a name; it is made with 1 if `flags` say so."""
    found = libc.sem_open(name, flags, 0o600, 1)
    assert found, os.strerror(ctypes.get_errno())
    return ctypes.c_void_p(found)


def value(semaphore):
    """Return how often it can be taken."""
    found = ctypes.c_int()
    libc.sem_getvalue(semaphore, ctypes.byref(found))
    return found.value


def taken(semaphore):
    """Take one within five seconds."""
    end = time.monotonic() + 5
    while libc.sem_trywait(semaphore):
        assert time.monotonic() < end, "nobody gives it back"
        time.sleep(0.001)


def use(semaphores):
    """Take and give them for ever."""
    while True:
        for semaphore in semaphores:
            libc.sem_wait(semaphore)
            time.sleep(0.002)
            libc.sem_post(semaphore)
        time.sleep(0.01)


def use_lock(lock):
    """Take and give a lock for ever."""
    while True:
        with lock:
            time.sleep(0.002)
        time.sleep(0.01)


def check(semaphores, lock, children):
    """Raise unless all are shared with the children, and the name leads to the first."""
    assert all(child.is_alive() for child in children), "a child has ended"
    for semaphore in semaphores:
        taken(semaphore)
        assert value(semaphore) == 0
        time.sleep(0.03)  # Whoever shares it waits now.
        assert value(semaphore) == 0
    assert value(opened(NAMED)) == 0, "the name leads to another semaphore"
    for semaphore in semaphores:
        libc.sem_post(semaphore)
    with lock:
        pass


def main():
    """Share them and check for ever."""
    semaphores = [opened(name, os.O_CREAT) for name in (NAMED, UNNAMED)]
    libc.sem_unlink(UNNAMED)
    spawn = multiprocessing.get_context("spawn")
    lock = spawn.Lock()
    children = [
        multiprocessing.get_context("fork").Process(target=use, args=(semaphores,), daemon=True),
        spawn.Process(target=use_lock, args=(lock,), daemon=True),
    ]
    for child in children:
        child.start()
    number = 0
    while True:
        number += 1
        try:
            check(semaphores, lock, children)
            print(f"ok {number}", flush=True)
        except (AssertionError, OSError) as error:
            print(f"WRONG {number} {error}", flush=True)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
