"""Which replica a request goes to: one that has read its longest beginning, unless that one has much more to do than another.

Ray's own `PrefixCacheAffinityRouter` does the same, but it cannot be imported without vLLM or SGLang.
"""

import hashlib
import json
import random
from collections import OrderedDict

from ray.serve.request_router import RequestRouter

# A beginning is known in steps of so many characters: some 32 tokens, which is a block of the engine's cache.
STEP = 128
# So many beginnings are remembered, some 100 bytes each.
MOST = 200_000
# A replica that has so many more requests than the idlest one is not given another one for its cache's sake.
SLACK = 8


def text_of(body):
    """What a request gives a model to read, in the order in which it is read; "" where that has no beginning in common with others."""
    if not isinstance(body, dict):
        return ""
    read = [body.get("system"), body.get("instructions"), body.get("tools"), body.get("messages") or body.get("prompt") or body.get("input")]
    return "\n".join(json.dumps(part, sort_keys=True, ensure_ascii=False) for part in read if part)


def beginnings(model, text):
    """Names of a text's beginnings, the longest first."""
    names, known = [], hashlib.blake2b(model.encode(), digest_size=16)
    for end in range(STEP, len(text) + 1, STEP):
        known.update(text[end - STEP : end].encode(errors="replace"))
        names.append(known.digest())
    return names[::-1]


class Readers:
    """Which replicas have read which beginnings, or had which session. What was of no use for longest is forgotten."""

    def __init__(self, most=MOST):
        self.most = most
        self.readers = OrderedDict()

    def of(self, names, there):
        """Those of the replicas `there` that know the first of `names` which any of them knows."""
        for name in names:
            known = self.readers.get(name, {}).keys() & there
            if known:
                self.readers.move_to_end(name)
                return known
        return set()

    def note(self, names, replica):
        for name in names:
            self.readers.setdefault(name, {})[replica] = None
            self.readers.move_to_end(name)
        while len(self.readers) > self.most:
            self.readers.popitem(last=False)

    def keep(self, there):
        """Forgets replicas that have gone."""
        for name in [name for name, known in self.readers.items() if not known.keys() <= there]:
            self.readers[name] = {replica: None for replica in self.readers[name] if replica in there}
            if not self.readers[name]:
                del self.readers[name]


class LongestBeginning(RequestRouter):
    """A request's first argument says whose session it is and what it begins with: (session, names)."""

    def initialize_state(self, slack=SLACK):
        self.slack = slack
        self.known = Readers()

    def update_replicas(self, replicas):
        super().update_replicas(replicas)
        self.known.keep({replica.replica_id for replica in replicas})

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        def load(replica):
            return self.replica_queue_len_cache.get(replica.replica_id) or 0

        by_load = sorted(random.sample(candidate_replicas, len(candidate_replicas)), key=load)
        if not by_load or pending_request is None:
            return [by_load]
        session, names = pending_request.args[0]
        there = {replica.replica_id for replica in by_load}
        # A session stays where it is for as long as that is there: what is stored is stored there.
        own = self.known.of([session], there) if session else set()
        known = own or self.known.of(names, there)
        best = [r for r in by_load if r.replica_id in known and (own or load(r) <= load(by_load[0]) + self.slack)]
        return [best[:1] or by_load[:1], by_load]

    def on_request_routed(self, pending_request, replica_id, result):
        session, names = pending_request.args[0]
        self.known.note([*names, session] if session else names, replica_id)
