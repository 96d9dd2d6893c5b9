"""The benchmarks: ``python -m bench``, run as root from the checkout.

Each file in ``bench/figures`` measures one group of figures and has one door,
``measure(quick)``. The client and server programs in ``bench/programs`` are
ordinary TCP programs that know nothing of what stands between them. What is
compared (direct, ``observe``, ``hold``) runs side by side on the same four
hosts, told apart by the server's port alone, so that what else the machine
does meanwhile meets all of them.
"""
