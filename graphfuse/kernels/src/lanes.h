// Sums of the lanes of several vectors at once: a row in each vector, its result in a lane.
//
// Two vectors are merged into one that has the sums of lanes at some distance, of both; after as
// many levels as halve the lanes to one, a vector's worth of rows has become one vector. That is
// three operations for a row, where a vector alone takes two for each level. The pairs are those of
// add_lanes, so a row's sum has the same bits in either way.

#pragma once

#include <utility>

#include "vectors.h"

namespace {

// Where lane `lane` of a merged vector comes from: below kLanes a lane of the first vector, else of
// the second. Merged within 16 bytes where the distance allows it: there shuffles are cheap.
template <class F>
constexpr int merged_from(int distance, int lane, bool upper) {
  constexpr int kNear = 16 / sizeof(F);
  const int segment = distance >= kNear ? kLanes<F> : kNear;
  const int at = lane % segment, half = segment / 2;
  const int of_half = at % half;
  const int within = of_half / distance * 2 * distance + of_half % distance;
  return lane / segment * segment + within + (upper ? distance : 0) + (at < half ? 0 : kLanes<F>);
}

// Vector `index` of those that are merged ends in this lane.
template <class F>
constexpr int merged_lane(int index) {
  int lane = 0;
  for (int distance = kLanes<F> / 2; distance > 0; distance /= 2) {
    const int from = lane + (index & distance ? kLanes<F> : 0);
    lane = 0;
    while (merged_from<F>(distance, lane, false) != from) ++lane;
  }
  return lane;
}

template <class F, int... kFrom>
GRAPHFUSE_INLINE Vec<F> pick(Vec<F> u, Vec<F> v) {
#if defined(__clang__)
  return __builtin_shufflevector(u, v, kFrom...);
#else
  return __builtin_shuffle(u, v, Lanes<F>{kFrom...});
#endif
}

template <class F, int kDistance, int... kLane>
GRAPHFUSE_INLINE Vec<F> merge(Vec<F> u, Vec<F> v, std::integer_sequence<int, kLane...>) {
  return pick<F, merged_from<F>(kDistance, kLane, false)...>(u, v) +
         pick<F, merged_from<F>(kDistance, kLane, true)...>(u, v);
}

// Vectors kFirst, kFirst + kDistance * 2, ... of `rows`, merged; kDistance is the last merge's.
template <class F, int kDistance, int kFirst>
GRAPHFUSE_INLINE Vec<F> merge_rows(const Vec<F>* rows) {
  if constexpr (kDistance == kLanes<F>) {
    return rows[merged_lane<F>(kFirst)];
  } else {
    return merge<F, kDistance>(merge_rows<F, kDistance * 2, kFirst>(rows),
                               merge_rows<F, kDistance * 2, kFirst + kDistance>(rows),
                               std::make_integer_sequence<int, kLanes<F>>{});
  }
}

// Lane r is the sum of the lanes of rows[r]; there are kLanes of them.
template <class F>
GRAPHFUSE_INLINE Vec<F> add_lanes_of(const Vec<F>* rows) {
  return merge_rows<F, 1, 0>(rows);
}

}  // namespace
