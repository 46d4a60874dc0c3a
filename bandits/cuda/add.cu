// Adding facts to sums: integers, so every order of threads gives the same bits.
//
// LANES neighbouring threads share a fact. Each looks at one edge of the item's row, which all of them read as one
// line, and compares it with the context; a long row is searched for each element of the context instead.
//
// Sums are int64, never below 0, and here unsigned: what passes 2^63 - 1 shows in the top bit, as long as a launch
// adds less than 2^63 to a sum. The caller sees to that, and to calling cap_sums where a sum could pass.

__device__ inline void add_to(u64* sum, u64 amount) {
    if (amount) atomicAdd(sum, amount);
}

__device__ inline void add_to_edge(u64* edge_sums, i64 edge, u64 x, u64 shown, u64 earned) {
    add_to(edge_sums + 3 * edge, x * shown);
    add_to(edge_sums + 3 * edge + 1, x * x * shown);
    add_to(edge_sums + 3 * edge + 2, x * earned);
}

extern "C" __global__ void add_facts(
    const i64* item_ptr, const int* edge_cluster, u64* edge_sums, u64* item_sums, const int* item, const int* context,
    const u8* impressions, const u32* reward, const int* context_ptr, const int* cluster, const u16* weight, i64 facts
) {
    const i64 fact = thread_number() / LANES;
    const int lane = (int)(thread_number() % LANES);
    if (fact >= facts) return;
    const i64 j = item[fact], start = item_ptr[j], stop = item_ptr[j + 1];
    const int first = context_ptr[context[fact]], end = context_ptr[context[fact] + 1];
    const u64 shown = impressions[fact], earned = reward[fact];
    if (lane == 0) {
        add_to(item_sums + 2 * j, shown);
        add_to(item_sums + 2 * j + 1, earned);
    }
    if (stop - start <= LONGEST_SCAN) {
        for (i64 edge = start + lane; edge < stop; edge += LANES) {
            const int wanted = edge_cluster[edge];
            for (int at = first; at < end; ++at)
                if (cluster[at] == wanted) add_to_edge(edge_sums, edge, weight[at], shown, earned);
        }
        return;
    }
    for (int at = first + lane; at < end; at += LANES) {
        const i64 edge = find_edge(edge_cluster, start, stop, cluster[at]);
        if (edge >= 0) add_to_edge(edge_sums, edge, weight[at], shown, earned);
    }
}

// Whether this thread, of all that try, brought a sum that passed the largest value back to it.
__device__ inline u64 capped(u64* sum) {
    const u64 seen = *sum;
    return seen > LARGEST_SUM && atomicCAS(sum, seen, LARGEST_SUM) == seen;
}

// Bring sums of the rows of some items that passed the largest value back to it, and count them.
extern "C" __global__ void cap_sums(
    const i64* item_ptr, u64* edge_sums, u64* item_sums, const int* item, i64 items, u64* saturated
) {
    const i64 number = thread_number() / LANES;
    const int lane = (int)(thread_number() % LANES);
    if (number >= items) return;
    const i64 j = item[number];
    u64 count = 0;
    for (i64 at = 3 * item_ptr[j] + lane; at < 3 * item_ptr[j + 1]; at += LANES) count += capped(edge_sums + at);
    if (lane < 2) count += capped(item_sums + 2 * j + lane);
    add_to(saturated, count);
}

// The largest of some sums.
extern "C" __global__ void largest_sum(const u64* sums, i64 count, u64* largest) {
    u64 most = 0;
    for (i64 at = thread_number(); at < count; at += (i64)gridDim.x * blockDim.x)
        if (sums[at] > most) most = sums[at];
    if (most) atomicMax(largest, most);
}
