"The exact answer in plain Python, slow and certain: what every store of products has to agree with."

import numpy as np

from recsys_nb.evaluation.fusion import idf
from recsys_nb.index.stores import Candidate, Filters, key_of, vector_kinds

kept = 'product_id', 'family_id', 'score', 'n_reviews'  # of a payload in a candidate


def passes(f, payload):
    "Whether a product meets the conditions."

    def within(value, low, high):
        if (low, high) == (None, None):
            return True
        return value is not None and (low is None or value >= low) and (high is None or value <= high)

    def keys(names):
        return set(map(key_of, names))

    brand, family = payload.get('brand_key'), payload['family_id']
    if not within(payload.get('price'), f.min_price, f.max_price):
        return False
    if not within(payload.get('score'), f.min_score, None):
        return False
    if f.category and not keys(f.category) & set(payload['category_keys']):
        return False
    if f.brand and brand not in keys(f.brand):
        return False
    if f.family and family not in f.family:
        return False
    return brand not in keys(f.not_brand) and family not in f.not_family


class ExactStore:
    "All products in memory."

    def __init__(self):
        self.points = {}

    def upsert(self, points):
        for payload, vectors in points:
            self.points[payload['product_id']] = payload, vectors

    def delete(self, ids):
        for i in ids:
            self.points.pop(i, None)

    def retrieve(self, ids, vectors=()):
        found = {i: self.points[i] for i in ids if i in self.points}
        return {i: (p, {name: v[name] for name in vectors if name in v}) for i, (p, v) in found.items()}

    def scroll(self, n=1000, vectors=(), filters=Filters()):
        yield list(self.retrieve([i for i, (p, _) in self.points.items() if passes(filters, p)], vectors).values())

    def count(self, filters=Filters()):
        return sum(passes(filters, p) for p, _ in self.points.values())

    def finish(self):
        "Nothing to optimise"

    def close(self):
        "Nothing to close"

    def values(self, name, asked):
        "Product id -> cosine, the best of several; of a sparse vector the sum over its words, rare ones counting more."
        own = {i: v[name] for i, (_, v) in self.points.items() if len(v.get(name, ()))}
        if vector_kinds[name] in ('one', 'several', 'kept'):
            return {i: float(np.max(np.atleast_2d(v) @ asked)) for i, v in own.items()}
        weights = {i: dict(zip(*v)) for i, v in own.items()}
        wanted = dict(zip(*asked))
        if vector_kinds[name] == 'bm25':
            rare = idf([sum(w in d for d in weights.values()) for w in wanted], sum(map(bool, weights.values())))
            wanted = {w: q * r for (w, q), r in zip(wanted.items(), rare)}
        sums = {i: float(sum(q * d.get(w, 0) for w, q in wanted.items())) for i, d in weights.items()}
        return {i: s for i, s in sums.items() if s > 0}

    def candidates(self, lookups, exact=True):
        "Whatever is best by any of the vectors that are asked for, with all its values."

        def best(values, n):
            return sorted(values, key=lambda i: (-values[i], i))[:n]

        def one(q):
            known = {i: p for i, (p, _) in self.points.items() if passes(q.filters, p)}
            values = {s: {i: v for i, v in self.values(s, a).items() if i in known} for s, a in q.asked.items()}
            searched = {s: v for s, v in values.items() if vector_kinds[s] != 'kept'}
            by = searched or dict(score={i: p.get('score') or 0 for i, p in known.items()})
            found = dict.fromkeys(i for v in by.values() for i in best(v, q.n))
            signals = {i: {s: v[i] for s, v in values.items() if i in v} for i in found}
            return [Candidate(signals=signals[i], **{f: known[i][f] for f in kept if f in known[i]}) for i in found]

        return [one(q) for q in lookups]
