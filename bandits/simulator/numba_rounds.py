"""Compiled loop over rounds: candidates, truth, scores, slate, clicks, delayed feedback.

Invariants: feedback of round q is applied before round t exactly where arrives[q] <= t, earlier arrivals first;
equal scores go to the lowest item; every random draw comes from the generator passed in; edge sums are (a, d, b) =
(sum w, sum w^2, sum w r), and a missing edge has none.

All of it is in one file, as the cache of a compiled function does not notice a change of what it calls elsewhere.
"""

import numpy as np
from numba import njit

from bandits.simulator.regret_policies import Kind

FIRST_EDGE_KIND, FIRST_FULL_KIND = int(Kind.BETA_EDGE), int(Kind.LINUCB_FULL)
RANDOM, BETA_ITEM, BETA_EDGE = int(Kind.RANDOM), int(Kind.BETA_ITEM), int(Kind.BETA_EDGE)
EPSILON = (int(Kind.EPSILON_ITEM), int(Kind.EPSILON_CLUSTER))
PER_CLUSTER = (int(Kind.EPSILON_CLUSTER), int(Kind.UCB1_CLUSTER))
DIAG_UCB_WNORM, DIAG_TS = int(Kind.DIAG_UCB_WNORM), int(Kind.DIAG_TS)
LINTS = int(Kind.LINTS_FULL)
RANDOMIZED_UCB = int(Kind.RANDOMIZED_UCB)
REFIT_ROUNDS = 100  # between fits of the pooled mean


@njit(cache=True, nogil=True)
def play_rounds(  # type: ignore[no-untyped-def]
    kind, parameter, settings, clusters, weights, uniforms, theta, phase_rounds, lists, place, published,
    examination, stops, order, arrives, slate_size, rng,
):  # fmt: skip
    """Actions and clicks, of shape (T, S), and regret of each round, (T,), of one policy (see `regret.play`)."""
    rounds, (phases, n_clusters, n_items) = len(clusters), theta.shape
    actions = np.empty((rounds, slate_size), np.int32)
    clicks = np.empty((rounds, slate_size), np.bool_)
    regret = np.empty(rounds)
    edges = np.zeros((n_clusters, lists.shape[1], 3))
    items, near = np.zeros((n_items, 2)), np.zeros((n_clusters, n_items, 2))
    full = kind >= FIRST_FULL_KIND
    inverse = np.zeros((n_items if full else 0, n_clusters, n_clusters))
    for j in range(len(inverse)):
        inverse[j] = np.eye(n_clusters)
    learned = np.zeros((len(inverse), 2, n_clusters))
    immediate = kind == RANDOMIZED_UCB
    stamp, candidates = np.full(n_items, -1), np.empty(n_items + 1, np.int64)
    p, score, left = np.empty(n_items), np.empty(n_items), np.empty(n_items)
    told, pooled = 0, 0.5
    for t in range(rounds):
        while told < rounds and arrives[order[told]] <= t:
            due = order[told]
            told += 1
            for z in range(slate_size):
                j, r = actions[due, z], 1.0 * clicks[due, z]
                shown = 0.0 if immediate else 1.0
                learn_sums(edges, items, near, place, clusters[due], weights[due], j, shown, r)
                if full:
                    learn_matrix(inverse[j], learned[j], clusters[due], weights[due], r)
        count = find_candidates(candidates, stamp, t, lists, clusters[t], published)
        among = candidates[:count]
        if full:
            score_full(kind, parameter, inverse, learned, among, clusters[t], weights[t], score, rng)
        elif kind == RANDOMIZED_UCB:
            if t % REFIT_ROUNDS == 0:
                pooled = (items[:, 1].sum() + 0.5) / (items[:, 0].sum() + 1.0)
            score_randomized(
                parameter, settings, pooled, edges, items, place, among, clusters[t], weights[t], score, rng
            )
        elif kind >= FIRST_EDGE_KIND:
            score_edges(kind, parameter, edges, place, among, clusters[t], weights[t], score, rng)
        else:
            score_counts(kind, parameter, items, near[clusters[t, 0]], among, score, rng)
        find_probabilities(p, theta[min(t // phase_rounds, phases - 1)], among, clusters[t], weights[t])
        left[:count] = p[:count]
        regret[t] = 0.0
        best_reads, reads, stopped = 1.0, 1.0, False
        for z in range(slate_size):
            best, chosen = take_largest(left, count), take_largest(score, count)
            best_chance, chance = examination[z] * p[best], examination[z] * p[chosen]
            regret[t] += best_reads * best_chance
            regret[t] -= reads * chance
            actions[t, z] = among[chosen]
            clicks[t, z] = not stopped and uniforms[t, z] < chance
            if stops:
                best_reads, reads = best_reads * (1.0 - best_chance), reads * (1.0 - chance)
                stopped = stopped or clicks[t, z]
            if immediate:
                learn_sums(edges, items, near, place, clusters[t], weights[t], among[chosen], 1.0, 0.0)
    return actions, clicks, regret


@njit(cache=True)
def find_candidates(candidates, stamp, t, lists, clusters, published):  # type: ignore[no-untyped-def]
    """Write the union of the clusters' lists, ascending, of what is published; how many there are."""
    for k in range(len(clusters)):
        for at in range(lists.shape[1]):
            stamp[lists[clusters[k], at]] = t
    count = 0
    for j in range(len(stamp)):
        candidates[count] = j  # overwritten unless counted: no branch
        count += stamp[j] == t and published[j] <= t
    return count


@njit(cache=True)
def find_probabilities(p, theta, candidates, clusters, weights):  # type: ignore[no-untyped-def]
    """Write the true click probability of each candidate."""
    for i in range(len(candidates)):
        p[i] = 0.0
        for k in range(len(clusters)):
            p[i] += weights[k] * theta[clusters[k], candidates[i]]


@njit(cache=True)
def take_largest(values, count):  # type: ignore[no-untyped-def]
    """Where the first of the largest values stands; it is then out of the running."""
    best = 0
    for i in range(1, count):
        if values[i] > values[best]:
            best = i
    values[best] = -np.inf
    return best


@njit(cache=True)
def learn_sums(edges, items, near, place, clusters, x, j, shown, r):  # type: ignore[no-untyped-def]
    """Add `shown` impressions of item j and reward r to the sums of edges, items and (nearest cluster, item)."""
    for k in range(len(clusters)):
        at = place[clusters[k], j]
        if at >= 0:
            edge = edges[clusters[k], at]
            edge[0] += x[k] * shown
            edge[1] += x[k] * x[k] * shown
            edge[2] += x[k] * r
    items[j, 0] += shown
    items[j, 1] += r
    near[clusters[0], j, 0] += shown
    near[clusters[0], j, 1] += r


@njit(cache=True)
def learn_matrix(inverse, learned, clusters, weights, r):  # type: ignore[no-untyped-def]
    """Sherman-Morrison on one item's inverse (C, C); row 0 of `learned` is b, row 1 is inverse @ b."""
    size = len(inverse)
    v = np.zeros(size)
    for k in range(len(clusters)):
        v += weights[k] * inverse[clusters[k]]
        learned[0, clusters[k]] += weights[k] * r
    scale = 1.0
    for k in range(len(clusters)):
        scale += weights[k] * v[clusters[k]]
    for c in range(size):
        factor = v[c] / scale
        for other in range(size):
            inverse[c, other] -= factor * v[other]
    learned[1] = inverse @ learned[0]


@njit(cache=True)
def score_counts(kind, parameter, items, near, candidates, score, rng):  # type: ignore[no-untyped-def]
    """Scores from impressions and clicks of the item, or of the nearest cluster and item; unseen comes first."""
    counts = near if kind in PER_CLUSTER else items
    explore = kind == RANDOM or (kind in EPSILON and rng.random() < parameter)
    logarithm = 2.0 * np.log(max(1.0, counts[:, 0].sum()))
    for i in range(len(candidates)):
        n, s = counts[candidates[i], 0], counts[candidates[i], 1]
        if explore:
            score[i] = rng.random()
        elif kind == BETA_ITEM:
            score[i] = rng.beta(1.0 + s, 1.0 + n - s)
        elif n == 0.0:
            score[i] = np.inf
        elif kind in EPSILON:
            score[i] = s / n
        else:
            score[i] = s / n + parameter * np.sqrt(logarithm / n)


@njit(cache=True)
def score_edges(kind, parameter, edges, place, candidates, clusters, weights, score, rng):  # type: ignore[no-untyped-def]
    """Scores from the sums of the edges between the context and each candidate."""
    for i in range(len(candidates)):
        mean, variance = 0.0, 0.0
        for k in range(len(clusters)):
            at = place[clusters[k], candidates[i]]
            if at < 0:
                continue
            w = weights[k]
            a, d, b = edges[clusters[k], at]
            if kind == BETA_EDGE:
                mean += w * rng.beta(1.0 + b, 1.0 + a - b)
                continue
            mean += w * (b / ((1.0 + a) if kind == DIAG_UCB_WNORM else (1.0 + d)))
            variance += w * w / (1.0 + d)
        if kind == DIAG_TS:
            score[i] = mean + parameter * np.sqrt(variance) * rng.standard_normal()
        else:
            score[i] = mean + parameter * np.sqrt(variance)


@njit(cache=True)
def score_randomized(  # type: ignore[no-untyped-def]
    optimism, settings, pooled, edges, items, place, candidates, clusters, weights, score, rng
):
    """Scores of `bandits.policies.randomized_ucb` with a fitted pooled mean."""
    edge_strength, item_strength, steady, lowest, highest = settings
    strength = edge_strength / pooled
    for i in range(len(candidates)):
        n, s = items[candidates[i]]
        of_item = (s + item_strength) / (n + item_strength / pooled)
        mean, variance = 0.0, 0.0
        for k in range(len(clusters)):
            at, w = place[clusters[k], candidates[i]], weights[k]
            if at < 0:
                continue
            a, d, b = edges[clusters[k], at]
            theta = of_item + (b - a * of_item + 0.5 * edge_strength * (1.0 - of_item / pooled)) / (d + strength)
            rate = min(max(theta, lowest * pooled), highest)
            mean += w * theta
            variance += w * w * (rate * (1.0 - rate) / (d + strength))
        drawn = steady + (1.0 - steady) * np.sqrt(rng.standard_exponential())
        score[i] = mean + optimism * np.sqrt(variance) * drawn


@njit(cache=True)
def score_full(kind, parameter, inverse, learned, candidates, clusters, weights, score, rng):  # type: ignore[no-untyped-def]
    """Scores from every item's full covariance over clusters."""
    for i in range(len(candidates)):
        matrix, theta = inverse[candidates[i]], learned[candidates[i], 1]
        mean, variance = 0.0, 0.0
        for k in range(len(clusters)):
            mean += weights[k] * theta[clusters[k]]
            for other in range(len(clusters)):
                variance += weights[k] * weights[other] * matrix[clusters[k], clusters[other]]
        draw = rng.standard_normal() if kind == LINTS else 1.0
        score[i] = mean + parameter * np.sqrt(max(0.0, variance)) * draw
