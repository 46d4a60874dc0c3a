// Rows of the graph and of its sums, as every kernel reads them.
//
// Arrays are those of bandits.graph and bandits.sums: item j has the edges item_ptr[j] to item_ptr[j + 1], whose
// clusters ascend; an edge has the sums a, d, b one after the other, an item n and s. Nothing here checks a bound:
// numbers are within the graph. No kernel waits for another thread, so every order of threads is allowed.

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

__device__ inline i64 thread_number() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// Number of the edge to a cluster within the ascending row [low, stop), or -1.
__device__ inline i64 find_edge(const int* edge_cluster, i64 low, i64 stop, int cluster) {
    const i64 end = stop;
    while (low < stop) {
        const i64 middle = (low + stop) >> 1;
        if (edge_cluster[middle] < cluster) low = middle + 1;
        else stop = middle;
    }
    return low < end && edge_cluster[low] == cluster ? low : -1;
}

// Number of the segment that holds `place`: the last one that starts at or before it; starts ascend.
__device__ inline int segment_of(const i64* starts, int segments, i64 place) {
    int low = 0, high = segments;
    while (low < high) {
        const int middle = (low + high) >> 1;
        if (starts[middle + 1] <= place) low = middle + 1;
        else high = middle;
    }
    return low;
}
