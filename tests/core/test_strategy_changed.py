"""A new strategy is for new flows: a handshake that is under way goes on as it began."""

from __future__ import annotations

from nfq_zerortt.config import Limits
from nfq_zerortt.core.admission import Policy
from tests.scenarios.script import Numbers, Run

BEGUN = """\
>> 0 client SYN C win 64240 <mss 1460>
<< client SYN,ACK S ack C+1 win 64240 <mss 1440>
<< pass SYN C win 64240 <mss 1460>
"""
WENT_ON = """\
>> 0.001 client PSH,ACK C+1 ack S+1 len 5
<< drop held
>> 0.1 server SYN,ACK R ack C+1 win 65160 <mss 1460>
<< drop syn_ack_captured
<< log flow.established strategy=hold
<< server PSH,ACK C+1 ack R+1 len 5 win 501
"""
NEW = """\
>> 0.2 client:5000 SYN C win 64240 <mss 1460>
<< accept observed
"""


def test_hold_goes_on_after_a_change_to_observe() -> None:
    run = Run(Numbers(c=1_000_000, r=3_000_000_000))
    assert run.play(BEGUN) == BEGUN
    assert run.engine is not None
    run.engine.configure(Policy("observe"), Limits())
    assert run.play(WENT_ON) == WENT_ON
    assert run.play(NEW) == NEW
