import os
import threading

import pytest

from crishim.kernel import scheduling


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8\n", {0, 1, 2, 3, 8}), ("7", {7}), ("\n", set())]
)
def test_lists_of_the_kernel(text, numbers):
    assert scheduling.parse_list(text) == numbers


def test_a_thread_is_bound_as_far_as_its_cpuset_has_the_processors():
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        usual = scheduling.affinity(thread.native_id)
        one = frozenset([max(usual)])
        assert scheduling.bind(thread.native_id, one | {5000}) == one
        assert scheduling.bind(thread.native_id, frozenset([5000])) == one
        assert thread.native_id in scheduling.threads(os.getpid())
    finally:
        go.set()
        thread.join()
    assert scheduling.affinity(1 << 22) == frozenset()  # there is no such thread


def test_what_this_process_may_use_is_in_its_cpuset():
    found = scheduling.cpuset(os.getpid())
    assert not found or frozenset(os.sched_getaffinity(0)) <= found
