// Rows of some items, packed one after the other: what goes to the host, and what comes from it.
//
// The edges of item number i of `item` are packed from row_ptr[i] on.

extern "C" __global__ void read_rows(
    const i64* item_ptr, const u64* edge_sums, const u64* item_sums, const int* item, const i64* row_ptr, i64 items,
    u64* edge_rows, u64* item_rows
) {
    const i64 number = thread_number() / LANES;
    const int lane = (int)(thread_number() % LANES);
    if (number >= items) return;
    const i64 j = item[number], start = 3 * item_ptr[j], size = 3 * (item_ptr[j + 1] - item_ptr[j]);
    for (i64 at = lane; at < size; at += LANES) edge_rows[3 * row_ptr[number] + at] = edge_sums[start + at];
    if (lane < 2) item_rows[2 * number + lane] = item_sums[2 * j + lane];
}

extern "C" __global__ void write_rows(
    const i64* item_ptr, u64* edge_sums, u64* item_sums, const int* item, const i64* row_ptr, i64 items,
    const u64* edge_rows, const u64* item_rows
) {
    const i64 number = thread_number() / LANES;
    const int lane = (int)(thread_number() % LANES);
    if (number >= items) return;
    const i64 j = item[number], start = 3 * item_ptr[j], size = 3 * (item_ptr[j + 1] - item_ptr[j]);
    for (i64 at = lane; at < size; at += LANES) edge_sums[start + at] = edge_rows[3 * row_ptr[number] + at];
    if (lane < 2) item_sums[2 * j + lane] = item_rows[2 * number + lane];
}
