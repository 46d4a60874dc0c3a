// The best so many members of each request, best first, without a sort: a member's rank is how many are better.
//
// One pass ranks within tiles and keeps the best of each; the next pass ranks what was kept, until every request is
// one tile. The order is that of bandits.slates.pick: score, then ties in seeded random order, then place; it is
// total, so every rank is taken by one thread.

__device__ inline bool is_better(const double* numbers, const u64* tie, int one, int other) {
    const double here = numbers[3 * (i64)one], there = numbers[3 * (i64)other];
    if (here != there) return here > there;
    if (tie[one] != tie[other]) return tie[one] < tie[other];
    return one < other;
}

// Request r has the places place_ptr[r] to place_ptr[r + 1] of `member`, -1 where there is none, in tiles of `tile`;
// the best `keep` of each tile are put from kept_ptr[r] on, tile after tile, into `kept`, which starts as -1.
extern "C" __global__ void rank_tiles(
    const double* numbers, const u64* tie, const i64* place_ptr, int requests, const int* member, int tile, int keep,
    const i64* kept_ptr, int* kept
) {
    const i64 place = thread_number();
    if (place >= place_ptr[requests]) return;
    const int one = member[place];
    if (one < 0) return;
    const int r = segment_of(place_ptr, requests, place);
    const i64 number = (place - place_ptr[r]) / tile, start = place_ptr[r] + number * tile;
    const i64 end = start + tile < place_ptr[r + 1] ? start + tile : place_ptr[r + 1];
    int rank = 0;
    for (i64 at = start; at < end && rank < keep; ++at) {
        const int other = member[at];
        rank += other >= 0 && other != one && is_better(numbers, tie, other, one);
    }
    if (rank < keep) kept[kept_ptr[r] + number * keep + rank] = one;
}

// Items and numbers of the chosen, in the order of `chosen`; -1 and zeros where there is none.
extern "C" __global__ void read_chosen(
    const int* chosen, i64 count, const int* item, const double* numbers, int* chosen_item, double* chosen_numbers
) {
    const i64 at = thread_number();
    if (at >= count) return;
    const int one = chosen[at];
    chosen_item[at] = one < 0 ? -1 : item[one];
    for (int column = 0; column < 3; ++column)
        chosen_numbers[3 * at + column] = one < 0 ? 0.0 : numbers[3 * (i64)one + column];
}
