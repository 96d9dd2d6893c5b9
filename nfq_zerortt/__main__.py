"""``python -m nfq_zerortt``: the same as the command ``nfq-zerortt``."""

from nfq_zerortt.cli import main

main()
