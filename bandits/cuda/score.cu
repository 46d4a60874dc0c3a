// Scores of candidates of many requests at once, from the rows they are in: one thread a candidate.
//
// The operations are those of bandits.numba_scores, in their order, and compiled without fused multiply-adds: rows
// with equal sums get equal bits wherever they stand, and the bits of the processor.
//
// Request r has the clusters context_ptr[r] to context_ptr[r + 1], ascending, and their weights. `policy` is a row of
// bandits.numba_scores.POLICY, `quantiles` is bandits.draws.COARSE_QUANTILES.

#define INFINITE __longlong_as_double(0x7ff0000000000000LL)

// What the edges of a candidate add up to.
struct Terms {
    double mean, square, blank;
};

// The item's own mean of bandits.policies.estimate_centred.
__device__ inline double item_mean(const i64* of_item, const double* policy) {
    const double strength = policy[POLICY_ITEM_STRENGTH], n = (double)of_item[0], s = (double)of_item[1] * SCALE_1;
    return (s + strength) / (n + strength / policy[POLICY_POOLED_MEAN]);
}

__device__ inline void add_edge(const i64* sums, double w, const double* policy, double of_one, Terms* terms) {
    const double a = (double)sums[0] * SCALE_1, d = (double)sums[1] * SCALE_2, b = (double)sums[2] * SCALE_2;
    if (policy[POLICY_MODE] == MODE_RANDOMIZED) {
        const double strength = policy[POLICY_EDGE_STRENGTH], m = policy[POLICY_POOLED_MEAN];
        const double towards = 0.5 * strength * (1.0 - of_one / m);
        const double inverse = 1.0 / (d + strength / m);
        const double theta = (b - a * of_one + towards) * inverse + of_one;
        const double low = LOWEST_RATE * m, raised = theta < low ? low : theta;
        const double rate = raised > HIGHEST_RATE ? HIGHEST_RATE : raised;
        terms->mean += theta * w;
        terms->square += rate * (1.0 - rate) * inverse * (w * w);
        return;
    }
    const double strength = policy[POLICY_PRIOR_STRENGTH];
    if (sums[1] > 0 || strength > 0.0) {
        const double inverse = 1.0 / (d + strength);
        const double divisor = policy[POLICY_DIAGONAL] != 0.0 ? inverse : 1.0 / (a + strength);
        terms->mean += (b + policy[POLICY_PRIOR_MEAN] * strength) * divisor * w;
        terms->square += inverse * (w * w);
    }
    if (sums[1] == 0) terms->blank += w;
}

// Score, mean and width, one after the other, of what the edges added up to.
__device__ inline void settle(Terms terms, const double* policy, const double* quantiles, u64 seed, u64 key, double* to) {
    const double width = sqrt(terms.square), mode = policy[POLICY_MODE];
    if (mode == MODE_RANDOMIZED) {
        const u64 draw = bits_of(stream_of(seed, STREAM_OPTIMISM), key) >> 48;
        const double drawn = STEADY + (1.0 - STEADY) * quantiles[COARSE + draw];
        to[0] = terms.mean + policy[POLICY_OPTIMISM] * drawn * width;
        to[1] = terms.mean;
        to[2] = width;
        return;
    }
    const double prior_mean = policy[POLICY_PRIOR_MEAN];
    double mean = terms.mean;
    if (terms.blank > 0.0 && policy[POLICY_PRIOR_STRENGTH] == 0.0 && prior_mean != 0.0) mean += prior_mean * terms.blank;
    const bool unseen = terms.blank > 0.0 && policy[POLICY_INFINITE] != 0.0;
    double score = mode == MODE_UNIFORM ? 0.0 : mean;
    if (mode == MODE_UCB && policy[POLICY_ALPHA] != 0.0)
        score = unseen ? INFINITE : mean + policy[POLICY_ALPHA] * width;
    if (mode == MODE_THOMPSON && policy[POLICY_THOMPSON_SCALE] != 0.0) {
        const double drawn = normal_quantile(uniform_of(stream_of(seed, STREAM_THOMPSON), key));
        score = unseen ? INFINITE : mean + policy[POLICY_THOMPSON_SCALE] * drawn * width;
    }
    to[0] = score;
    to[1] = mean;
    to[2] = unseen ? INFINITE : width;
}

// Numbers and ties of candidates; `member` says that all of them are to be ranked.
extern "C" __global__ void score_candidates(
    const i64* item_ptr, const int* edge_cluster, const i64* edge_sums, const i64* item_sums, const u64* item_key,
    const i64* request_ptr, int requests, const int* item, const int* context_ptr, const int* cluster,
    const double* weight, const u64* seed, const double* policy, const double* quantiles, double* numbers, u64* tie,
    int* member
) {
    const i64 candidate = thread_number();
    if (candidate >= request_ptr[requests]) return;
    const int r = segment_of(request_ptr, requests, candidate);
    const i64 j = item[candidate];
    const double of_one = policy[POLICY_MODE] == MODE_RANDOMIZED ? item_mean(item_sums + 2 * j, policy) : 0.0;
    Terms terms = {0.0, 0.0, 0.0};
    for (int at = context_ptr[r]; at < context_ptr[r + 1]; ++at) {
        const i64 edge = find_edge(edge_cluster, item_ptr[j], item_ptr[j + 1], cluster[at]);
        if (edge >= 0) add_edge(edge_sums + 3 * edge, weight[at], policy, of_one, &terms);
    }
    settle(terms, policy, quantiles, seed[r], item_key[j], numbers + 3 * candidate);
    tie[candidate] = bits_of(stream_of(seed[r], STREAM_TIES), item_key[j]);
    member[candidate] = (int)candidate;
}

// Numbers and ties of the items around the users: one thread an edge of the users' clusters.
//
// Pieces are stretches of `source`, the items of a cluster, or of `attached`, where an edit has put more there: piece
// p starts at piece_start[p] of the one or, as -1 - start, of the other, fills the places piece_ptr[p] to
// piece_ptr[p + 1], belongs to request piece_request[p], and is of the request's cluster number piece_rank[p]. An
// item is a member at its edge to the first of the request's clusters that it has one to, and at no other.
extern "C" __global__ void score_around(
    const i64* item_ptr, const int* edge_cluster, const i64* edge_sums, const i64* item_sums, const u64* item_key,
    const int* source, const int* attached, const u8* live, const i64* piece_ptr, const i64* piece_start,
    const int* piece_request, const int* piece_rank, int pieces, const int* context_ptr, const int* cluster,
    const double* weight, const u64* seed, const double* policy, const double* quantiles, int* item, double* numbers,
    u64* tie, int* member, int* found
) {
    const i64 place = thread_number();
    if (place >= piece_ptr[pieces]) return;
    const int piece = segment_of(piece_ptr, pieces, place), r = piece_request[piece];
    const i64 start = piece_start[piece], within = place - piece_ptr[piece];
    const i64 j = start >= 0 ? source[start + within] : attached[-1 - start + within];
    member[place] = -1;
    if (!live[j]) return;
    const double of_one = policy[POLICY_MODE] == MODE_RANDOMIZED ? item_mean(item_sums + 2 * j, policy) : 0.0;
    Terms terms = {0.0, 0.0, 0.0};
    for (int at = context_ptr[r]; at < context_ptr[r + 1]; ++at) {
        const i64 edge = find_edge(edge_cluster, item_ptr[j], item_ptr[j + 1], cluster[at]);
        if (edge < 0) continue;
        if (at - context_ptr[r] < piece_rank[piece]) return;
        add_edge(edge_sums + 3 * edge, weight[at], policy, of_one, &terms);
    }
    settle(terms, policy, quantiles, seed[r], item_key[j], numbers + 3 * place);
    tie[place] = bits_of(stream_of(seed[r], STREAM_TIES), item_key[j]);
    item[place] = (int)j;
    member[place] = (int)place;
    atomicAdd(found + r, 1);
}
