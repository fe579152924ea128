"""Who owns which neuron and at which address it answers, by plan_version; and what follows from
that: to whom each part sends what, and how a new version reaches all parts.

Only `publisher.py` and `subscriber.py` know of links and messages; the rest is pure.
"""
