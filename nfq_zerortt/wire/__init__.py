"""IPv4, IPv6, TCP and its options as bytes.

Two forms of a segment live here. A :class:`~nfq_zerortt.wire.view.SegmentView`
is a checked look at bytes that arrived: nothing is copied, and the lengths are
known to fit. A :class:`~nfq_zerortt.wire.segment.Segment` is a plain record
that can be compared, changed and emitted. ``Segment.parse(s.emit()) == s``
holds for every segment ``s`` (tests/wire checks it).
"""
