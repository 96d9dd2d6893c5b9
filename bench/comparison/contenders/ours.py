"""This service, by one of its data paths."""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.laboratory import ComparisonLab

_QUEUE = 0


class Ours:
    """``nfq-zerortt run`` with its defaults but for the data path."""

    def __init__(self, data_path: str) -> None:
        """``data_path``: as the service's option ``--data-path``."""
        self._data_path = data_path
        self.name = f"nfq-zerortt, {data_path}"
        self.about = f"nfq-zerortt run --data-path {data_path}; all else as by default"

    def up(self, lab: ComparisonLab) -> Sequence[int]:
        """Start the service.

        Raises:
            MissingFeatureError: the kernel lacks what this data path needs.
            ZeroRttError: it did not start.
        """
        listener = lab.configured_service(
            "service", _QUEUE, f'strategy = "auto"\ndata_path = "{self._data_path}"\n'
        )
        return (listener.pid,)
