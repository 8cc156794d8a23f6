#include "pipeline/visit_schedule.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

void require_sound(const ScheduleShape& shape) {
  GPTQ_EXPECT(shape.grid.stages >= 1 && shape.grid.replicas >= 1 && !shape.starts.empty());
  GPTQ_EXPECT(*std::min_element(shape.starts.begin(), shape.starts.end()) == shape.first_block);
  GPTQ_EXPECT(*std::max_element(shape.starts.begin(), shape.starts.end()) <= end_block(shape));
  // Helpers wait for one stage; with more recipes every stage has work of its own.
  GPTQ_EXPECT(!shape.helpers || (shape.starts.size() == 1 && !shape.full_precision));
}

}  // namespace

std::int64_t end_block(const ScheduleShape& shape) {
  return shape.blocks + (shape.quantizes_head ? 1 : 0);
}

std::vector<Visit> visits_of_stage(const ScheduleShape& shape, int stage) {
  require_sound(shape);
  std::vector<Visit> visits;
  for (std::int64_t block = shape.first_block; block < end_block(shape); ++block) {
    const bool own = stage_of_block(shape.grid, shape.first_block, block) == stage;
    if (!own) {
      if (shape.helpers) visits.push_back({block, 0, Visit::Kind::help});
      continue;
    }
    if (shape.full_precision || shape.has_reference) visits.push_back({block, 0, Visit::Kind::reference});
    for (std::size_t recipe = 0; recipe < shape.starts.size(); ++recipe) {
      if (block >= shape.starts[recipe])
        visits.push_back({block, static_cast<int>(recipe), Visit::Kind::quantize});
    }
  }
  return visits;
}

std::int64_t rounds(const ScheduleShape& shape) {
  return (end_block(shape) - shape.first_block + shape.grid.stages - 1) / shape.grid.stages;
}

std::int64_t round_of(const ScheduleShape& shape, std::int64_t block) {
  GPTQ_EXPECT(block >= shape.first_block);
  return (block - shape.first_block) / shape.grid.stages;
}

std::vector<std::size_t> cuts(const ScheduleShape& shape, const std::vector<Visit>& visits) {
  std::vector<std::size_t> ends;
  std::size_t end = 0;
  for (std::int64_t round = 0; round < rounds(shape); ++round) {
    while (end < visits.size() && round_of(shape, visits[end].block) == round) ++end;
    ends.push_back(end);
  }
  return ends;
}

}  // namespace gptq
